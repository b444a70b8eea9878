// Package gossip says who is alive and who hosts what: membership through
// memberlist (SWIM), and the directory, which tells for every data structure
// the nodes that hold replicas of it.
//
// All of it is a hint. Raft's membership is the truth; a stale hint costs a
// retry, a missing one a question to the catalog, and nothing that gossip says
// changes a group or authorizes anyone: every holder of the key, or everyone if
// there is none, can forge it.
//
// # Parts
//
//   - directory.go, list.go, coverage.go, antientropy.go: the directory, a pure
//     data structure that takes the time as an argument.
//   - delegate.go, inbox.go: memberlist's callbacks. They copy, put in and return.
//   - loop.go: the one goroutine that takes in what the callbacks brought, under
//     one lock (Gossip.mu) that is never held over a call into memberlist.
//   - remind.go: what the broadcasts missed.
//   - send.go: requests and pages, over streams, by goroutines of their own.
//   - scout.go, contact.go, contacts.go: finding a cluster, and finding back to it.
//   - sockets.go: UDP and TCP for memberlist.
//   - memory.go: the in-memory twin. It passes the same conformance suite.
//
// # Membership
//
// A node's memberlist name is the text of its NodeID. Its metadata, at most 512
// bytes, holds a version byte and the protobuf message Identity: cluster, process
// incarnation, transport port, host, data center, rack, capacity, version.
//
// A node is looking, a member, or has left. While it looks it refuses everyone's
// nodes and everyone refuses it: two nodes that look are no cluster for each
// other, and nobody carries the nodes of one cluster into another. To join, it
// sends a scout (scout.go) to each given address, which says what cluster the
// node there is in; then it adopts that cluster and joins through that node.
// Members let only nodes of their own ClusterID in, checked in every alive
// message; messages about the directory carry the ClusterID, too.
//
// memberlist forgets a dead node within a minute and never looks for it again.
// So a node remembers the addresses of its peers (Config.Remember makes them
// durable), and a slow loop with jitter contacts those that were lost, for a week;
// a partition of any length up to that heals by itself.
//
// Restarts: a new process has a greater incarnation (from the data directory) in
// its metadata. At the same address it refutes what the others say of its former
// life. At a new address memberlist refuses it until its former life is dead,
// plus DeadNodeReclaimTime (LAN 5 s, WAN 10 s); it then tells a member again. An
// address whose node has a new NodeID is simply another node.
//
// # The directory
//
// Every node owns the list of its own replicas and numbers its changes 1, 2, 3, …
// within an epoch: (process incarnation, generation). Others keep, per node, the
// newest epoch they have heard of: per group the newest change, and which
// sequences they have (a prefix, and up to 64 spans beyond it, since packets
// overtake each other). A removal is a change; its mark stays as long as the epoch.
// When more marks than live replicas have piled up (and more than 1,024), the owner
// starts a new generation with a fresh list. So a list at most doubles, and nobody
// has to agree on when a mark may go.
//
// News travel in four ways:
//
//   - Deltas: up to 16 changes of a publish are broadcast in packets of at most
//     1,024 bytes; who hears something new passes it on. Of more changes only the
//     new head is broadcast, and everyone fetches them.
//   - Reminders (remind.go): a broadcast misses someone now and then. So every
//     second a node tells three others, in a packet, how far it has the lists that
//     changed in the last minute. While nothing changes there are none.
//   - Vectors: every push/pull carries how far each known list reaches (about 27
//     bytes per node, nothing per replica).
//   - Pages: who is behind asks the owner, or whoever told, for what it lacks
//     beyond its prefix, and gets pages of at most 128 KiB, 512 KiB per request, by
//     ascending sequence, so that it can go on from where it stopped. A holder
//     serves its own prefix only; hence whoever has all sequences has what the
//     owner has, whatever came from whom in whatever order.
//
// What is dropped, and when (keep: LAN 10 minutes, WAN 30):
//
//   - the list of a node that has been dead or left for keep, together with the
//     node; updates about nodes that are not members are ignored, or else lists
//     of the dead would wander from node to node;
//   - the list of an older epoch when the newer one is complete, or after keep.
//     Until then it answers for what the newer one lacks;
//   - the list of an older incarnation, keep after its node restarted, if the new
//     process never published.
//
// At most 4,096 nodes and 262,144 entries per node are held.
//
// Measured with 20 nodes, 10,000 structures and 3 replicas each, LAN profile, in
// virtual time, every byte that a node sends counted, headers included
// (TestTown): 4.7 MB of memory per node; nothing changes: 1 kB/s per node; ten
// changes a second: 9 kB/s; one replica moves: known everywhere within 1 s; 1,500
// replicas move at once: 1 s, 55 KB sent per node; from nothing: 2 s, 0.9 MB sent
// per node; after a partition of 12 minutes: 10 s. With the WAN profile a change
// takes 1.6 s on average, and 3.5 s at worst of 500.
//
// # Wire format
//
// A message is a version byte (1), a kind byte, and the protobuf message of that
// kind in package gossippb: Hello (push/pull state, and in part as a reminder, in a
// packet), Delta (packet), Want and Page (stream). Unknown kinds and unknown fields
// are skipped: that is a minor version. Another version byte is ErrVersion: such a
// node is not let in. Whatever is larger than 256 KiB is not decoded.
//
// # Rejected
//
//   - The replicas in memberlist's metadata: 512 bytes hold 32 IDs.
//   - The replicas as push/pull state: memberlist sends it whole, in both
//     directions, to a random node every 30 s, and stops at 20 MB.
//   - Removals that expire by time: a node that was away for longer revives them.
//   - memberlist's label as the cluster's fence: who looks for a cluster does not
//     know it yet. The label only says "copycat", and keeps other programs out.
//   - memberlist.NetTransport: see sockets.go.
//   - Copying memberlist.Members from time to time instead of taking events: it
//     returns pointers to nodes that memberlist goes on writing to.
package gossip
