//go:build race

package sim

// The race detector makes a seed some ten times slower; here it checks that
// one thread is what it takes, the other tests of the tree race for real.
const (
	defaultSeeds  = 3
	defaultTowns  = 1
	replayedSeeds = 1
	raced         = true
)
