// Dragonboat measures dragonboat v4, by the same load, the same readings and
// the same command line as CopyCat:
//
//	go run . -h
//
// # Settings
//
// Each node is a NodeHost, each structure a shard with a replica on each. The
// log is Tan, which is faster here than the default, Pebble (flag -log). All
// engine settings are dragonboat's defaults: 16 workers of each kind. A tick
// (RTTMillisecond) has 100 ms, elections take 10 of them, as in the project's
// examples; CheckQuorum and PreVote are on; Quiesce is on, without which idle
// shards cost more. A snapshot is due after 100,000 entries, as with CopyCat.
// The state machine is an IConcurrentStateMachine, which is handed batches.
//
// Tan keeps a log for each replica, and reserves 64 MiB for it: 192 GB for 1,000
// structures on three nodes. Its form with logs that several shards share is not
// exported, and neither is the size. The scenarios with that many structures run
// with Pebble, whose 16 databases are shared by all shards of a node.
//
// Proposals are asynchronous and without a client session (a NoOPSession): what
// is lost on the way is not repeated, what is repeated is not recognized. A
// goroutine of each proposer takes the results in their order. A proposal that
// is refused because the shard's queue of 2,048 is full is offered again after
// 50 µs, until it is taken.
package main
