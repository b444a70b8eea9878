//go:build race

package gossip

// The race detector makes all of it some five times slower; the figures are
// those of the run without it.
const (
	townNodes      = 8
	townStructures = 1_000
	wanMoves       = 20
	partitionHours = 1
)
