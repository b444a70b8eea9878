// Package load puts a replication system under a closed-loop load and measures
// what comes back. It knows nothing of the system but the small System
// interface, so that CopyCat and its peers are measured by the same code.
//
// # How an operation is measured
//
// One operation is one proposal, committed, and applied at its proposer. A
// lane is one proposer: one goroutine that proposes for one structure at one
// node, and keeps a fixed number of proposals outstanding. A payload begins
// with 8 bytes, the lane's number and a sequence number; the rest is random.
// The lane notes the time of sending in a ring that was allocated before the
// run; the Consumer of the same node and structure takes it out again when the
// payload is applied there, and records the difference in a histogram of its
// own. There is no map, no lock and no allocation per operation but a slice of
// a slab that holds many payloads.
//
// Every consumer, on the other nodes too, checks that the numbers of each lane
// arrive complete, once each, and in order. A benchmark that is fast because
// something was lost would be worthless.
//
// # What counts
//
// The window of measuring is fixed before the load starts. Operations per
// second counts what was applied inside it; latencies are those of all
// operations that were sent inside it, also when they came back after its end:
// a stall at the end must not vanish from the histogram.
//
// The clock is read twice for each operation. A lane whose window is full wakes
// again when a sixteenth of it (64 at most) is free, not for each proposal: the
// generator shares the processors with what it measures.
package load
