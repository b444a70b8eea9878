// Package sim runs whole clusters in one process on one thread: the
// production log store, snapshot store, host, sessions, delivery, rendezvous
// and catalog, on an in-memory file system and network, in virtual time, with
// faults drawn from a seed. All events stand in one queue, ordered by time and
// then by when they were put there; every source of randomness is seeded,
// raft's election jitter included; so a plan replays exactly.
//
// What happens to every subscriber is recorded and checked by package history.
// What no history shows, or shows late, is asserted at every step (watch.go):
// one leader in a term, one vote in a term, one incarnation of a structure, no
// ReplicaID twice, nothing that was durable goes back, who rests shows a leader, and
// each snapshot, when the log names it, has the label, the membership and the
// content of its place.
//
// What waits (births, joins, calls, transfers) runs in tasks: goroutines of
// which only one runs at a time, while the loop stands still, in the order of
// the seed.
//
// A plan (plan.go) names a run. Each fault of its schedule has a source of
// randomness of its own, so that others can be left out; that is how a failing
// plan is made small (shrink.go).
//
// Some structures are there from the start; others are born while the faults
// go on, when several nodes ask the catalog for them at the same moment; some
// of these are deleted while their programs write, and created anew.
//
// # Towns
//
// A plan of the other kind lives through hours of a town (town.go): nine to
// fifteen nodes with racks in three or four data centers, a hundred structures
// born by the catalog, programs that come and go, and work now and then. Placement
// and healing are the production ones with their defaults, and gossip has a view
// for each node, which follows the network with a delay and errs (towngossip.go).
// Nodes join, leave in order, are restarted, killed, stopped and cut off, die for
// good, come back after they were replaced, or empty; data centers are cut off and
// lost; options are altered, structures deleted (townevents.go, townfaults.go).
// Nodes are lost for good only where every group keeps a majority; for a while, more.
//
// Beside all of the above it asserts, at each look, what townwish.go says: while
// nothing changes, every group that has a majority becomes as wished within the
// grace period and a stated time to catch up. And in the end (townend.go): the
// history, no file of a replica that should not be there, every group quiet.
//
// Silence costs little: a host ticks once in a second while all its groups are
// quiet and nothing has happened for some seconds. Otherwise ticks are half a second,
// five of them an election time-out, so that two hours take less than a minute.
package sim
