// Hashicorp measures hashicorp/raft with raft-wal, by the same load, the same
// readings and the same command line as CopyCat:
//
//	go run . -h
//
// # Settings
//
// Each structure is a raft instance of its own on each node: the library has no
// notion of several groups. The log is raft-wal, behind a raft.LogCache of 8,192
// entries, without which followers are served from the disk. The current term
// and vote are in the same raft-wal, snapshots in a FileSnapshotStore that keeps
// two. raft.DefaultConfig, but for BatchApplyCh (proposals that wait are
// appended together) and MaxAppendEntries, which bounds those batches: 1,024
// instead of 64 gave the highest throughput at 4,096 outstanding and changes
// nothing at 1. The TCP transport has its default of two requests in flight, as
// its authors advise for networks without much delay; the flag -in-flight
// changes it. The state machine is a BatchingFSM.
//
// raft-wal reserves a file of 64 MiB for each replica: 192 GB for 1,000
// structures on three nodes. The scenarios with that many give it smaller ones
// (flag -segment-size).
//
// A follower learns what is committed from the leader's next message. With
// proposers on followers that is what they wait for once their window is full:
// then CommitTimeout, which bounds that wait, is 2 ms instead of 50.
//
// Proposals are asynchronous: Apply hands over a proposal, and a goroutine of
// each proposer waits for the futures in their order.
//
// The library does not forward proposals from followers: programs do. For
// proposers on followers there is a forwarder here, of the cheapest kind: one
// TCP connection from the proposer to the leader's node with frames of length
// and payload, as many in a packet as there are, and one byte back for each.
package main
