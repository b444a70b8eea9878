//go:build !race

package sim

const (
	defaultSeeds  = 20
	defaultTowns  = 1
	replayedSeeds = 3
	raced         = false
)
