// Etcd measures etcd 3.7 embedded in a program, by the same load, the same
// readings and the same command line as CopyCat:
//
//	go run . -h
//
// # Settings
//
// Each node is an embedded member (embed.StartEtcd), with its default settings
// but for the log level (error) and the backend's quota (8 GiB). The client is
// v3client: calls into the member of the same process, without gRPC and without
// a socket, which is faster than etcd's usual client. Members talk over loopback
// HTTP without TLS, as is the default.
//
// A structure is a range of keys: etcd has one raft group for all of it, so that
// many structures cost it nothing in idle time, and nothing in group commits;
// they also share one log and one leader. A proposal is a Put to the key of its
// proposer in that range. It is settled when Put returns, by which time the
// proposer's own member has applied it. All members apply; on each there is one
// watcher over all ranges, which hands the events to the consumers, and which a
// program would need to keep a data structure of its own.
//
// etcd has no asynchronous Put: as many goroutines as are outstanding call it,
// and their order is not kept. The harness checks that nothing is lost and
// nothing repeated, but not the order.
package main
