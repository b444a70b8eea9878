// Package raftgroup is CopyCat's engine: a host of many raft groups on one
// node, and for each group its log's meaning, its sessions, its snapshots, its
// membership, and the subscriptions that hang on it.
//
// # How the parts fit
//
// A [Host] owns the groups of a node. Groups with something to do stand in one
// queue; a fixed pool of workers takes them off and runs their step, one
// worker at a time for a group, so that a group's state needs no lock. A step
// takes what is in the group's mailbox (messages, answers of the log store,
// calls), gives it to raft, and lets raft's effects out: appends to the log
// store, which answers through the mailbox when they are durable; messages to
// the network; committed entries to the apply cursor.
//
// What the log says is a pure function of it, the type state: which proposals
// count (sessionTable), who the members are, which snapshot is due and which
// is the newest. It never looks into a payload, so a detached replica keeps
// the same state as an interactive one.
//
// A [Subscription] is the user's end. Its pump moves proposals from the
// propose channel into the window of its proposer, which the group's step
// owns: there they are numbered, packed into batch entries, sent, and sent
// again when the log shows that something was lost. Its delivery walks the
// committed log behind the apply cursor with a cursor, and a state, of its own.
//
// # Why a cursor has a state of its own
//
// A snapshot labelled N must hold membership and sessions as of N, and it is
// made where the consumer stands, which may be far behind the apply cursor.
// Instead of keeping a history of memberships back to the slowest cursor, each
// delivery cursor runs the same pure function over the same entry headers: its
// state is that of its own place by construction, and it decides what counts
// by itself. The price is that headers are read once more for each
// subscription; a header costs some fifty nanoseconds and stands for a batch.
//
// # Where a snapshot is made
//
// The leader asks for one through the log: the entry that carries the request
// is the place of the snapshot, and names the session that makes it. So the
// place is the same for everybody, a request survives its leader, and the
// rendezvous with the consumer (design, section 6) happens when that session's
// delivery comes to the entry.
//
// # What is not here
//
// Births are decided by package catalog; this package only prepares, starts
// and discards replicas for it. Gossip and transport come in through the
// interfaces in interfaces.go.
package raftgroup
