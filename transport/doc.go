// Package transport carries what nodes say to each other: raft messages of all
// groups, calls with an answer, and streams of bulk data. It knows nothing of
// raft, of gossip, or of what the bytes mean.
//
// # What it promises
//
// Messages are sent and forgotten: Send never blocks, and what it accepted
// arrives at most once, ordinary messages of one group in order, urgent ones
// in order among themselves and ahead of the others. Whatever is lost is
// followed by Handler.PeerDown, so that nobody waits for it in vain; raft sends
// anew what matters. Nothing is kept for a node that cannot be reached: a queue
// of old raft messages helps nobody.
//
// A Call either brings the handler's answer, or the handler's error, or an
// error that leaves open what happened. A Fetch brings a stream whole or ends
// with an error, never short.
//
// Every queue, buffer, handler and connection is bounded (see Config), and a
// node to which nothing is sent costs neither goroutine nor connection.
//
// # Parts
//
// A Network makes connections: TCP, or MemNetwork in memory and virtual time.
// Each connection has one direction of use, from the node that dialed, and one
// purpose: messages, urgent messages, calls, or a single fetch. A node dials when it has
// something to send, with growing, random pauses after failures (backoff), and
// closes after Config.IdleTimeout (liveness), with a goodbye, so that the
// other side can tell rest from death. While a connection is in use it is
// probed by pings, which find a peer that fell silent within
// Config.StallTimeout, and measure the round-trip time for Transport.RTT.
//
// Messages to a peer travel on two connections, each with a queue of its own
// (outbox): the urgent ones wait neither for the bulk that the kernel has taken
// nor for what a lossy line sends again. What waits (inbox) is packed into one
// write (packer), up to about Config.PieceBytes. Whoever sends writes itself, if
// there is little to write, nobody else writes, and the socket takes it at once;
// what is left, or comes meanwhile, is left to the one goroutine per connection
// that may wait for the socket (sender). Both write as soon as there is
// something, and what arrives during the write makes the next frame; so frames
// grow with the load, and no timer delays anything. Queue and Flush let one who
// sends much at a time say so. A larger message goes in pieces, one large
// message at a time, between which other groups' messages pass; its own group's
// wait behind it.
//
// # Wire format, version 1.1
//
// Numbers are little-endian, uvarint is that of encoding/binary, CRC is
// CRC-32C. A connection, after TLS if there is TLS, begins with records
// (record.go): magic "CPYC", major, minor, kind, zero, length (2), body, CRC.
//
//	dialer   hello      cluster 16, node 16, wanted node 16, incarnation 8,
//	                    purpose 1, has a key 1, idle milliseconds 4, nonce 32,
//	                    instance 8 (since 1.1)
//	listener challenge  nonce 32                                (with a key)
//	dialer   proof      HMAC-SHA256 of what was said so far     (with a key)
//	listener welcome    cluster 16, node 16, incarnation 8, HMAC 32 or zeros,
//	                    instance 8 (since 1.1)
//	listener refuse     code 1, cluster 16, node 16             (instead)
//
// The dialer proves itself first, so that a stranger gets nothing to guess the
// key from. The proofs cover both nonces, both identities, the role, and with
// TLS the session. A newer major version is refused from the first six bytes.
//
// Then come frames (frame.go): length of the body 4, version 1, type 1, flags
// 1, zero 1, CRC of those eight bytes and the body 4, body. Flag 1 says that the
// body is an s2 block. Any fault in a frame closes the connection. The bodies
// are described in message.go, call.go and fetch.go.
//
// # What was decided against
//
// gRPC and drpc cost up to twelve times the CPU of plain frames with a flush
// when the queue is empty. A connection for each group costs goroutines and
// buffers by the thousand. One connection used in both directions saves a
// handshake, but needs a rule for two that are made at once, and a peer that
// can be dialed from one side only is a case worth seeing. Urgent
// messages ahead of the others on one connection, with TCP_NOTSENT_LOWAT to
// keep what the kernel holds small: measured on loopback under full load, an
// urgent message took 0.7 to 1.8 ms in the median, and 15 µs on a connection of
// its own; a lost packet of bulk would hold it up as well. Keeping the
// queue across a broken connection hides losses from raft's flow control,
// which then waits for acknowledgements that never come.
//
// The key proves who takes part when a connection is made; it neither hides
// nor protects what follows. Against someone who can change packets, use TLS.
package transport
