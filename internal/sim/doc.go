// Package sim runs whole clusters in one process on one thread: the
// production log store, snapshot store, host, sessions, delivery and
// rendezvous, on an in-memory file system and network, in virtual time, with
// faults drawn from a seed. All events stand in one queue, ordered by time and
// then by when they were put there; every source of randomness is seeded,
// raft's election jitter included; so a seed replays exactly.
//
// What happens to every subscriber is recorded and checked by package history.
//
// What waits (joins, calls, transfers) runs in tasks: goroutines of which only
// one runs at a time, while the loop stands still, in the order of the seed.
//
// Not in it yet: the catalog (births are tested on real hosts in virtual time,
// in package catalog), and bit flips.
package sim
