package wan

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"syscall"
	"time"

	"github.com/copycat-replication/copycat/internal/netproxy"
)

// portAttempts: a port that is free for TCP may be taken for UDP.
const portAttempts = 10

// proxies is the backend for users that may not have namespaces.
type proxies struct {
	net    *Net
	proxy  *netproxy.Proxy
	who    *netproxy.Processes
	tie    *tie
	chance [2]byte
	cut    []bool // isolated hosts
}

func newProxies(n *Net) (_ backend, err error) {
	if err := netproxy.Supported(); err != nil {
		return nil, fmt.Errorf("proxies: %w", err)
	}
	b := &proxies{net: n, who: &netproxy.Processes{}, cut: make([]bool, len(n.hosts)), tie: newTie()}
	b.proxy = netproxy.New(netproxy.Config{Owner: b.who.Owner, Seed: n.cfg.Seed})
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	// Two octets of chance keep the networks of several processes apart.
	if _, err := rand.Read(b.chance[:]); err != nil {
		return nil, fmt.Errorf("proxies: %w", err)
	}
	for _, h := range n.hosts {
		h.Address, h.Bind = b.address(128, h.Index), b.address(64, h.Index)
		if err := b.addFronts(h); err != nil {
			return nil, fmt.Errorf("proxies: host %s: %w", h.Name, err)
		}
	}
	return b, nil
}

func (b *proxies) address(base byte, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, base + b.chance[0]%64, b.chance[1], byte(host + 1)})
}

func (b *proxies) addFronts(h *Host) error {
	node := netproxy.Node(h.Index)
	front, back := netip.AddrPortFrom(h.Address, 0), netip.AddrPortFrom(h.Bind, 0)
	at, err := b.proxy.AddTCP(node, front, back)
	if err != nil {
		return err
	}
	h.StreamPort = at.Port()
	for range portAttempts {
		if at, err = b.proxy.AddTCP(node, front, back); err != nil {
			return err
		}
		_, err = b.proxy.AddUDP(node, at, netip.AddrPortFrom(h.Bind, at.Port()))
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	h.GossipPort = at.Port()
	return err
}

func (b *proxies) set(from, to int, link Link) {
	for _, x := range b.net.hosts {
		for _, y := range b.net.hosts {
			if x != y && x.Center == from && y.Center == to {
				b.proxy.Set(netproxy.Node(x.Index), netproxy.Node(y.Index), b.between(x.Index, y.Index, link))
			}
		}
	}
}

func (b *proxies) between(x, y int, l Link) netproxy.Link {
	return netproxy.Link{Delay: l.Delay, Jitter: l.Jitter, Loss: l.Loss, Rate: l.Rate / 8, Cut: l.Cut || b.cut[x] || b.cut[y]}
}

func (b *proxies) isolate(host int, cut bool) {
	b.cut[host] = cut
	for pair, link := range b.net.links {
		b.set(pair[0], pair[1], link)
	}
}

func (b *proxies) start(host int, cmd *exec.Cmd) error {
	if err := b.tie.start(cmd); err != nil {
		return err
	}
	b.who.Add(cmd.Process.Pid, netproxy.Node(host))
	return nil
}

// probe measures a proxy of its own with the same links: through the other
// one nobody could answer but the processes.
func (b *proxies) probe(from, to, n int, wait time.Duration) (took []time.Duration, err error) {
	p := netproxy.New(netproxy.Config{Seed: b.net.cfg.Seed})
	defer func() { err = errors.Join(err, p.Close()) }()
	ends := [2]int{from, to}
	var fronts [2]netip.AddrPort
	var sockets [2]*net.UDPConn
	for i, host := range ends {
		sockets[i], err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.net.hosts[host].Bind, 0)))
		if err != nil {
			return nil, fmt.Errorf("probe: %w", err)
		}
		defer func() { err = errors.Join(err, sockets[i].Close()) }()
		back := sockets[i].LocalAddr().(*net.UDPAddr).AddrPort()
		if fronts[i], err = p.AddUDP(netproxy.Node(host), netip.AddrPortFrom(b.net.hosts[host].Address, 0), back); err != nil {
			return nil, fmt.Errorf("probe: %w", err)
		}
	}
	x, y := b.net.hosts[from], b.net.hosts[to]
	p.Set(netproxy.Node(from), netproxy.Node(to), b.between(from, to, b.net.links[[2]int{x.Center, y.Center}]))
	p.Set(netproxy.Node(to), netproxy.Node(from), b.between(to, from, b.net.links[[2]int{y.Center, x.Center}]))
	for i := range n {
		rtt, ok, err := bounce(sockets, fronts, byte(i), wait)
		if err != nil {
			return took, fmt.Errorf("probe: %w", err)
		}
		if ok {
			took = append(took, rtt)
		}
	}
	return took, nil
}

// bounce sends a datagram there and back.
func bounce(sockets [2]*net.UDPConn, fronts [2]netip.AddrPort, number byte, wait time.Duration) (time.Duration, bool, error) {
	sent := time.Now()
	buf := make([]byte, 16)
	for i := range 2 { // i sends, the other one receives
		other := sockets[1-i]
		if _, err := sockets[i].WriteToUDPAddrPort([]byte{number}, fronts[1-i]); err != nil {
			return 0, false, err
		}
		if err := other.SetReadDeadline(sent.Add(wait)); err != nil {
			return 0, false, err
		}
		for {
			n, _, err := other.ReadFromUDPAddrPort(buf)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				return 0, false, nil
			}
			if err != nil {
				return 0, false, err
			}
			if n == 1 && buf[0] == number {
				break // and not one that came after it was given up
			}
		}
	}
	return time.Since(sent), true, nil
}

func (b *proxies) reset() {}

func (b *proxies) report(to *Report) {
	to.Congestion = machineCongestion()
	s := b.proxy.Stats()
	to.Delivered, to.Strange = uint64(s.Datagrams), uint64(s.Strangers)
}

func (b *proxies) close() error {
	err := b.proxy.Close()
	b.tie.end()
	return err
}
