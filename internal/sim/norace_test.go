//go:build !race

package sim

const (
	defaultSeeds  = 20
	replayedSeeds = 3
	raced         = false
)
