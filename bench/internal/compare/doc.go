// Package compare measures several systems side by side. It builds each of
// them, the peers in the modules where they live, and runs them in turn, each
// run a process of its own: round after round, beginning with another system
// each time, so that what the machine does meanwhile hits all alike. What it
// reports are medians with their spread, and ratios of the runs of the same
// round.
//
// A peer that cannot be built is reported and left out.
package compare
