// Nats measures NATS JetStream, its servers embedded in a program, by the same
// load, the same readings and the same command line as CopyCat:
//
//	go run . -h
//
// # Settings
//
// Each node is a server (server.NewServer) in one cluster over loopback TCP,
// with sync_interval: always. A structure is a stream with three replicas on
// files: a raft group of its own. With several replicas the server syncs the
// raft log at each append, and the stream's own files when it takes a snapshot.
// Clients are connected in the process, without a socket.
//
// A proposal is an asynchronous publication (PublishAsync), which keeps a
// proposer's order. Each node has an ordered consumer of each stream, as a
// program needs that keeps a data structure of its own. A proposal is settled
// when the proposer's own consumer is handed it; with -settle ack when the
// stream's leader acknowledges it, which is after a majority has it and
// usually a little earlier, but says nothing of the proposer's node.
//
// A failover is not measured: a server that is shut down inside a process hands
// its leaderships over first, which a crash does not.
//
// Publications carry no message ID: what is repeated is not recognized.
package main
