//go:build !race

package gossip

const (
	townNodes      = 20
	townStructures = 10_000
	wanMoves       = 100
	partitionHours = 4
)
