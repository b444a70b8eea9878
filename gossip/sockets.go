package gossip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-sockaddr"
	"github.com/hashicorp/memberlist"
)

// Why not memberlist.NetTransport: it wraps no errors, so that an address in
// use can only be told by its text; its dials cannot be cancelled, so that Close
// would wait for a silent peer for up to 30 s; and nobody knows which
// connections are still open.

const (
	maxPacket     = 65536
	receiveBuffer = 2 << 20
	bindAttempts  = 10 // with port 0, the UDP port of the TCP port's number may be taken
	// maxStreams bounds the streams that others have opened, and those that this
	// node has: strangers who connect and say nothing must not keep it from
	// speaking.
	maxStreams = 256
)

// sockets is a memberlist transport over UDP and TCP.
type sockets struct {
	tcp       *net.TCPListener
	udp       *net.UDPConn
	advertise netip.Addr
	port      int
	packets   chan *memberlist.Packet
	streams   chan net.Conn
	ctx       context.Context
	stop      context.CancelFunc
	readers   sync.WaitGroup

	mu      sync.Mutex
	closed  bool                 // guarded by mu, as what follows
	dialed  map[*stream]struct{} // not closed yet
	inbound []*stream            // likewise, and not cut; oldest first
	cut     map[*stream]struct{} // inbound ones that were, and whose user has not closed them yet
	empty   sync.WaitGroup       // one per open stream
}

var _ memberlist.NodeAwareTransport = (*sockets)(nil)

// listen binds TCP and UDP to the same port.
func listen(address string, port int, advertise netip.Addr) (*sockets, error) {
	var err error
	for range bindAttempts {
		var s *sockets
		if s, err = listenOnce(address, port, advertise); err == nil {
			return s, nil
		}
		if port != 0 || !errors.Is(err, ErrAddressInUse) {
			break
		}
	}
	return nil, err
}

func listenOnce(address string, port int, advertise netip.Addr) (*sockets, error) {
	ip := net.ParseIP(address)
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Port: port})
	if err != nil {
		return nil, bindError("TCP", address, port, err)
	}
	port = tcp.Addr().(*net.TCPAddr).Port
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip, Port: port})
	if err != nil {
		return nil, errors.Join(bindError("UDP", address, port, err), tcp.Close())
	}
	// The kernel's default holds few packets; it may refuse that much, so take
	// what it gives.
	for size := receiveBuffer; size > 0 && udp.SetReadBuffer(size) != nil; size /= 2 {
	}
	s := &sockets{
		tcp: tcp, udp: udp, advertise: advertise, port: port,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
		dialed: make(map[*stream]struct{}), cut: make(map[*stream]struct{}),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.readers.Add(2)
	go s.accept()
	go s.receive()
	return s, nil
}

func bindError(protocol, address string, port int, err error) error {
	where := net.JoinHostPort(address, strconv.Itoa(port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("gossip on %s %s: %w: %w", protocol, where, ErrAddressInUse, err)
	}
	return fmt.Errorf("gossip on %s %s: %w", protocol, where, err)
}

func (s *sockets) accept() {
	defer s.readers.Done()
	for {
		conn, err := s.tcp.AcceptTCP()
		if err != nil {
			// Out of files, most likely: wait for some to close.
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
				continue
			}
		}
		tracked, err := s.track(conn, true)
		if err != nil {
			continue
		}
		select {
		case s.streams <- tracked:
		case <-s.ctx.Done():
			_ = tracked.Close()
			return
		}
	}
}

func (s *sockets) receive() {
	defer s.readers.Done()
	buf := make([]byte, maxPacket)
	for {
		n, from, err := s.udp.ReadFromUDP(buf)
		if err != nil {
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
				continue
			}
		}
		if n == 0 {
			continue
		}
		// memberlist keeps the packet beyond this round.
		packet := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: time.Now()}
		select {
		case s.packets <- packet:
		case <-s.ctx.Done():
			return
		}
	}
}

// FinalAdvertiseAddr returns what Start resolved.
func (s *sockets) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return s.advertise.AsSlice(), s.port, nil
}

func (s *sockets) WriteTo(b []byte, addr string) (time.Time, error) {
	return s.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (s *sockets) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	to, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = s.udp.WriteToUDPAddrPort(b, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
	return time.Now(), err
}

func (s *sockets) PacketCh() <-chan *memberlist.Packet { return s.packets }
func (s *sockets) StreamCh() <-chan net.Conn           { return s.streams }

func (s *sockets) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return s.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (s *sockets) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return s.dial(s.ctx, a, timeout)
}

// dial is DialAddressTimeout with a context of the caller's, which must end
// no later than the transport's.
func (s *sockets) dial(ctx context.Context, a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	// memberlist sets no deadline for user messages: a peer that stops reading
	// would hold the sender for ever.
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s.track(conn, false)
}

// Shutdown closes the sockets and every stream, and returns when memberlist
// has let go of all of them. memberlist still reads the channels meanwhile.
func (s *sockets) Shutdown() error {
	s.stop()
	err := errors.Join(s.tcp.Close(), s.udp.Close())
	s.readers.Wait()
	s.mu.Lock()
	s.closed = true
	open := slices.Concat(s.inbound, slices.Collect(maps.Keys(s.dialed)))
	s.mu.Unlock()
	for _, conn := range open {
		_ = conn.Conn.Close() // its user, woken by this, closes the stream
	}
	s.empty.Wait()
	return err
}

// track makes a stream that Shutdown knows of. When others have opened too many,
// the oldest one is cut: an honest exchange takes some round trips.
func (s *sockets) track(conn net.Conn, inbound bool) (net.Conn, error) {
	tracked := &stream{Conn: conn, sockets: s}
	var oldest *stream
	s.mu.Lock()
	full := !inbound && len(s.dialed) >= maxStreams || inbound && len(s.cut) >= maxStreams
	closed := s.closed
	switch {
	case closed || full:
	case inbound:
		if len(s.inbound) >= maxStreams {
			oldest = s.inbound[0]
			s.inbound = slices.Delete(s.inbound, 0, 1)
			s.cut[oldest] = struct{}{}
		}
		s.inbound = append(s.inbound, tracked)
		s.empty.Add(1)
	default:
		s.dialed[tracked] = struct{}{}
		s.empty.Add(1)
	}
	s.mu.Unlock()
	if oldest != nil {
		_ = oldest.Conn.Close() // its user, woken by this, closes the stream
	}
	switch {
	case closed:
		return nil, errors.Join(net.ErrClosed, conn.Close())
	case full:
		return nil, errors.Join(fmt.Errorf("more than %d gossip streams", maxStreams), conn.Close())
	}
	return tracked, nil
}

// untrack forgets a stream that its user has closed.
func (s *sockets) untrack(c *stream) {
	s.mu.Lock()
	delete(s.dialed, c)
	delete(s.cut, c)
	if i := slices.Index(s.inbound, c); i >= 0 {
		s.inbound = slices.Delete(s.inbound, i, i+1)
	}
	s.mu.Unlock()
	s.empty.Done()
}

// stream is a TCP connection that its transport knows of until it is closed.
type stream struct {
	net.Conn
	sockets *sockets
	once    sync.Once
	err     error
}

func (c *stream) Close() error {
	c.once.Do(func() {
		c.err = c.Conn.Close()
		c.sockets.untrack(c)
	})
	return c.err
}

// Write closes the stream when it fails: memberlist forgets to, when the label
// cannot be written to a fresh connection.
func (c *stream) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		_ = c.Close()
	}
	return n, err
}

// advertised finds the IP address to tell others.
func advertised(ctx context.Context, host, bind string) (netip.Addr, error) {
	bound, err := netip.ParseAddr(bind)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if host != "" {
		addrs, err := resolve(ctx, host)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("%w: advertised host %q: %w", ErrNoAddress, host, err)
		}
		for _, addr := range addrs {
			// An address that the bound family can be reached at.
			if bound.IsUnspecified() || addr.Is4() == bound.Unmap().Is4() {
				return addr, nil
			}
		}
		return netip.Addr{}, fmt.Errorf("%w: advertised host %q has no address of the kind of %s", ErrNoAddress, host, bind)
	}
	if !bound.IsUnspecified() {
		return bound.Unmap(), nil
	}
	for _, find := range []func() (string, error){sockaddr.GetPrivateIP, sockaddr.GetPublicIP} {
		text, err := find()
		if err != nil {
			return netip.Addr{}, fmt.Errorf("%w: %w", ErrNoAddress, err)
		}
		if addr, err := netip.ParseAddr(text); err == nil {
			return addr.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%w: no interface has a private or public address; set AdvertiseHost", ErrNoAddress)
}

// resolve turns a host name or IP address into addresses.
func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}
