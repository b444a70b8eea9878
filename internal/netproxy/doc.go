// Package netproxy stands between the nodes of a test rig and breaks their
// network: TCP and UDP of real processes on loopback addresses, each direction
// between two nodes with its own delay, jitter, loss, rate and cuts, all of it
// changeable while traffic runs.
//
// # The arrangement
//
// A node advertises one address to all others, so there cannot be an address
// per pair of nodes. Each node has a private address, on which it really
// listens, and a front, which it advertises and on which the proxy listens, on
// the same ports:
//
//	node 1 --dials--> front of 2 (127.x.y.2:p) --proxy--> node 2 (127.x.z.2:p)
//
// The proxy has to know who sends. A datagram says it by its source: gossip
// sends from the socket on which it listens, the private address. It leaves the
// proxy through the front of its sender, so that the receiver sees the address
// that it knows. A TCP connection comes from an address that the kernel chose;
// [Processes] asks the kernel which process holds its other end. So nothing in
// the library knows of the proxy, and the processes run what users run. A sender
// that writes and closes at once, as gossip does with longer messages, may be
// gone before it is asked for: such a connection passes while every link to its
// receiver is whole, and is dropped while one of them is cut.
//
// Rejected: a dialer handed into the library (a test hook in production code,
// and what is tested is then not what is shipped); kernel filters and network
// namespaces (they need root, and drop packets instead of delaying them); one
// proxy address per pair (the directory tells everybody the same address).
//
// # What a link does
//
// Bytes of a connection wait for their time and keep their order; the rate is
// shared by all connections of a direction. A cut holds bytes, and the news
// that a connection was closed, until it is healed, as retransmission would;
// new connections are accepted by the proxy's kernel and then hang. Where TCP
// would stop altogether because acknowledgements are lost, a one-way cut here
// lets the other direction flow: that is the harder case for a protocol, which
// sees a peer that talks and does not hear. Datagrams are dropped by a cut, by
// chance, and when too many wait.
//
// Everything has a bound: bytes per connection and direction, datagrams per
// link, connections in all.
package netproxy
