// Package wan emulates data centers and the links between them on one
// machine, for processes that run what users run.
//
// # The arrangement
//
// As root, each host has a network namespace of its own with one TUN device as
// its way out, and a relay in this process stands between the devices:
//
//	process ── kernel TCP/UDP ── tun (host 1) ── relay ── tun (host 2) ── kernel ── process
//
// The relay is one thread. It reads packets, decides what becomes of each (lost,
// dropped by a full queue, cut off, or due at a certain time), and writes them
// when they are due. So it is the kernel's real TCP that meets loss, delay and
// queues. It waits on a timerfd: timers of Go are up to a millisecond late. It
// asks for real-time priority, since the processes under test share its cores
// (see Config.Realtime).
//
// A pair of data centers has one line for each direction, shared by all hosts,
// and a line inside each data center: with one rate and one bounded queue (what
// does not fit is dropped, as a router does it), a delay, a jitter that keeps
// packets in order, a share of losses, and a cut. All of it can be changed while
// traffic runs; what is under way is delivered as it was to be.
//
// Namespaces have no names: they live as long as this process and those it
// started in them, and these are killed by the kernel when it dies (Pdeathsig).
// There is no route out of a namespace but to the other hosts, so that nothing
// leaves the machine.
//
// Without root, or without /dev/net/tun, hosts are addresses 127.x.y.z behind
// the proxies of internal/netproxy. Then connects are instant, loss hits
// datagrams only, a rate belongs to each pair of hosts, and a proxy's timers are
// Go's. [Report] says which of the two it was, and how well it held.
//
// # Packets that the kernel has not cut yet
//
// The MTU is 1500. But the devices offer segmentation offload, as network cards
// do: the kernel hands over up to 64 KiB of a connection as one packet with one
// header, and the size to cut it into. The relay counts, queues and loses the
// segments, not the packet: where one of them is lost, the rest goes on as two
// packets. This costs a tenth of the processor time, which the two cores of a
// small machine do not have at 500 Mbit/s. Kernel and card would cut the packet
// at the same place. What is different: its segments arrive together when the
// last one is due. The kernel makes packets of at most a millisecond's worth of
// a connection's rate, so that is how much it matters.
//
// # Congestion control
//
// It is fixed for each route (cubic by default) and read back from a socket:
// with bbr, which is some machines' default, lossy links carry a hundred times
// what they carry with cubic, and two machines' results would not compare.
// Socket buffers may grow up to Config.SocketBuffer: 100 ms at 500 Mbit/s need
// 6.25 MB on their way, and the usual bound for sending is 4 MB.
//
// # Rejected
//
// netem: the kernel must have it, and ours do not. A relay process of its own:
// one more process to care for, for what a thread does. A nested module with a
// netlink library: of netlink we need one message.
package wan
