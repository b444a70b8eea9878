package wan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	device      = "tun0"
	mtu         = 1500
	queueLength = 8192 // packets that wait for the relay
	network     = "10.99.0.0"
	networkBits = 16
	streamPort  = 11983
	gossipPort  = 12983
)

// namespaces is the backend with a network namespace for each host.
type namespaces struct {
	net   *Net
	spots []*spot // by host
	relay *relay
}

// spot is a host's namespace: a thread that stays in it, and its device.
type spot struct {
	thread  *thread
	tun     int
	address [4]byte
}

// thread runs functions on an operating system thread of its own, which ends
// with it: it may be changed in ways that cannot be undone. Processes that are
// started from it with Pdeathsig live as long as it does.
type thread struct {
	calls chan func()
	once  sync.Once
	done  chan struct{}
}

func newThread() *thread {
	t := &thread{calls: make(chan func()), done: make(chan struct{})}
	go t.run()
	return t
}

func (t *thread) run() {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// The main thread stands for the process in /proc, and never ends. While
		// it is locked here, another goroutine gets another thread.
		started := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(started)
			t.serve()
		}()
		<-started
		runtime.UnlockOSThread()
		return
	}
	t.serve()
}

func (t *thread) serve() {
	defer close(t.done)
	for f := range t.calls {
		f()
	}
}

// do runs f on the thread, and waits for it. The thread must not be ended.
func (t *thread) do(f func() error) (err error) {
	done := make(chan struct{})
	t.calls <- func() { defer close(done); err = f() }
	<-done
	return err
}

func (t *thread) end() {
	t.once.Do(func() { close(t.calls) })
	<-t.done
}

func newNamespaces(n *Net) (_ backend, err error) {
	b := &namespaces{net: n}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if err := available(n.cfg.Congestion); err != nil {
		return nil, err
	}
	if n.cfg.Realtime {
		if err := promote(); err != nil {
			return nil, err
		}
	}
	nth := make([]int, len(n.cfg.Centers))
	for _, h := range n.hosts {
		nth[h.Center]++
		address := [4]byte{10, 99, byte(h.Center + 1), byte(nth[h.Center])}
		h.Address = netip.AddrFrom4(address)
		h.Bind, h.StreamPort, h.GossipPort = h.Address, streamPort, gossipPort
		s := &spot{thread: newThread(), tun: -1, address: address}
		b.spots = append(b.spots, s)
		if err := s.thread.do(func() error { return s.enter(&n.cfg) }); err != nil {
			return nil, fmt.Errorf("namespace of host %s: %w", h.Name, err)
		}
	}
	var tuns, centers []int
	var addresses [][4]byte
	for i, s := range b.spots {
		tuns, addresses = append(tuns, s.tun), append(addresses, s.address)
		centers = append(centers, n.hosts[i].Center)
	}
	b.relay, err = newRelay(n.cfg.Seed, len(n.cfg.Centers), tuns, centers, addresses)
	return b, err
}

// available tells what is missing, without changing anything.
func available(congestion string) error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return lacking(err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("/dev/net/tun: %w", err)
	}
	const list = "/proc/sys/net/ipv4/tcp_available_congestion_control"
	known, err := os.ReadFile(list)
	if err != nil {
		return lacking(err)
	}
	for _, name := range strings.Fields(string(known)) {
		if name == congestion {
			return nil
		}
	}
	return fmt.Errorf("%w: the kernel has no congestion control %q, but %s", ErrUnsupported, congestion, strings.TrimSpace(string(known)))
}

// lacking says what this machine or this user does not have, if that is what
// the error tells; another error is one that nobody has expected.
func lacking(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: they need root: %w", ErrUnsupported, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: the kernel has no TUN devices, or shows none here: %w", ErrUnsupported, err)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: the kernel has no network namespaces: %w", ErrUnsupported, err)
	}
	return err
}

// enter moves the thread into a new namespace and sets that up.
func (s *spot) enter(cfg *Config) (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return lacking(fmt.Errorf("unshare: %w", err))
	}
	if s.tun, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return lacking(fmt.Errorf("/dev/net/tun: %w", err))
	}
	ifr, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(s.tun, unix.TUNSETIFF, ifr); err != nil {
		return lacking(fmt.Errorf("make %s: %w", device, err))
	}
	if err := unix.IoctlSetInt(s.tun, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4); err != nil {
		return fmt.Errorf("offload: %w", err)
	}
	if err := s.configure(); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"tcp_rmem":            fmt.Sprintf("4096 131072 %d", cfg.SocketBuffer),
		"tcp_wmem":            fmt.Sprintf("4096 16384 %d", cfg.SocketBuffer),
		"tcp_no_metrics_save": "1", // a connection does not begin with what an earlier one found out
	} {
		// /proc/sys/net shows the namespace of the thread that opens it.
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return addRoute(cfg.Congestion)
}

// configure gives the device its address and brings it up, and loopback too.
func (s *spot) configure() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	set := func(name string, request uint, fill func(*unix.Ifreq)) error {
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		fill(ifr)
		if err := unix.IoctlIfreq(fd, request, ifr); err != nil {
			return fmt.Errorf("configure %s (request %#x): %w", name, request, err)
		}
		return nil
	}
	address := func(a [4]byte) func(*unix.Ifreq) {
		return func(i *unix.Ifreq) { _ = i.SetInet4Addr(a[:]) } // fails for other lengths only
	}
	number := func(n uint32) func(*unix.Ifreq) { return func(i *unix.Ifreq) { i.SetUint32(n) } }
	up := func(i *unix.Ifreq) { i.SetUint16(unix.IFF_UP | unix.IFF_RUNNING) }
	return errors.Join(
		set("lo", unix.SIOCSIFFLAGS, up),
		set(device, unix.SIOCSIFADDR, address(s.address)),
		set(device, unix.SIOCSIFNETMASK, address([4]byte{255, 255, 255, 255})),
		set(device, unix.SIOCSIFMTU, number(mtu)),
		set(device, unix.SIOCSIFTXQLEN, number(queueLength)),
		set(device, unix.SIOCSIFFLAGS, up),
	)
}

// addRoute sends the one netlink message that we need: all hosts are behind
// the device, and connections to them use that congestion control.
func addRoute(congestion string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	index, err := deviceIndex()
	if err != nil {
		return err
	}
	to := netip.MustParseAddr(network).As4()
	body := []byte{unix.AF_INET, networkBits, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_LINK, unix.RTN_UNICAST, 0, 0, 0, 0}
	body = appendAttribute(body, unix.RTA_DST, to[:])
	body = appendAttribute(body, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, index))
	body = appendAttribute(body, unix.RTA_METRICS, appendAttribute(nil, unix.RTAX_CC_ALGO, append([]byte(congestion), 0)))
	request := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	request = binary.NativeEndian.AppendUint16(request, unix.RTM_NEWROUTE)
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	request = append(request, 1, 0, 0, 0, 0, 0, 0, 0) // sequence number 1, from the kernel's own port
	if err := unix.Sendto(fd, append(request, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("netlink: answer of %d bytes makes no sense", n)
	}
	if code := -int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return fmt.Errorf("add route: %w", syscall.Errno(code))
	}
	return nil
}

func deviceIndex() (uint32, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("control socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq(device)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("index of %s: %w", device, err)
	}
	return ifr.Uint32(), nil
}

func appendAttribute(to []byte, kind uint16, value []byte) []byte {
	to = binary.NativeEndian.AppendUint16(to, uint16(4+len(value)))
	to = binary.NativeEndian.AppendUint16(to, kind)
	to = append(to, value...)
	for len(to)%4 != 0 {
		to = append(to, 0)
	}
	return to
}

func (b *namespaces) set(from, to int, link Link) {
	b.relay.mu.Lock()
	defer b.relay.mu.Unlock()
	b.relay.pipes[from][to].set(link)
}

func (b *namespaces) isolate(host int, cut bool) {
	b.relay.mu.Lock()
	defer b.relay.mu.Unlock()
	b.relay.isolated[host] = cut
}

func (b *namespaces) start(host int, cmd *exec.Cmd) error {
	return b.spots[host].thread.do(func() error { return startTied(cmd) })
}

// startTied starts a command that the kernel kills when this thread ends. What
// it starts is scheduled in the ordinary way, whatever this process is.
func startTied(cmd *exec.Cmd) error {
	if err := schedule(0, unix.SCHED_NORMAL, 0); err != nil {
		return fmt.Errorf("ordinary priority: %w", err)
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return cmd.Start()
}

// Do runs f on a thread that is in the host's namespace: sockets that f itself
// makes, not on other goroutines, are the host's. Without namespaces f runs as
// it is, and has to bind to the host's address.
func (h *Host) Do(f func() error) error {
	b, ok := h.net.backend.(*namespaces)
	if !ok {
		return f()
	}
	h.net.mu.Lock()
	closed := h.net.closed
	h.net.mu.Unlock()
	if closed {
		return ErrClosed
	}
	return b.spots[h.Index].thread.do(f)
}

func (b *namespaces) close() error {
	if b.relay != nil {
		b.relay.close()
	}
	var errs []error
	for _, s := range b.spots {
		s.thread.end()
		if s.tun >= 0 {
			errs = append(errs, unix.Close(s.tun))
		}
	}
	return errors.Join(errs...)
}

func (b *namespaces) reset() {
	r := b.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	r.late.Reset()
	r.worst, r.overdue, r.strange, r.refused = 0, 0, 0, 0
	r.counters = relayMark{at: time.Now(), cpu: r.cpu}
	for _, row := range r.pipes {
		for _, p := range row {
			p.count = traffic{}
		}
	}
}

func (b *namespaces) report(to *Report) {
	to.MTU = mtu
	for _, s := range b.spots {
		_ = s.thread.do(func() error { to.Overrun += overrun(); return nil })
	}
	if err := b.spots[0].thread.do(func() (err error) {
		to.Congestion, err = congestionOf(b.spots[len(b.spots)-1].address)
		return err
	}); err != nil {
		to.Congestion = "unknown: " + err.Error()
	}
	r := b.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	to.Realtime = r.realtime
	to.LateP50, to.LateP99 = time.Duration(r.late.ValueAtQuantile(50)), time.Duration(r.late.ValueAtQuantile(99))
	to.LateMax, to.Late = time.Duration(r.worst), r.overdue
	to.Delivered = uint64(r.late.TotalCount())
	to.Strange, to.Refused = r.strange, r.refused
	if took := time.Since(r.counters.at); took > 0 {
		to.RelayCores = (r.cpu - r.counters.cpu).Seconds() / took.Seconds()
	}
	if r.failure != nil {
		to.Failure = r.failure.Error()
	}
	for i := range to.Links {
		l := &to.Links[i]
		l.Traffic = r.pipes[l.From][l.To].count
	}
}

// overrun counts what the thread's device dropped, since the relay was too slow.
func overrun() uint64 {
	data, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		name, rest, ok := strings.Cut(line, ":")
		// Eight fields of receiving, then bytes, packets, errors and drops of sending.
		if f := strings.Fields(rest); ok && strings.TrimSpace(name) == device && len(f) > 11 {
			n, _ := strconv.ParseUint(f[11], 10, 64) // the kernel wrote it
			return n
		}
	}
	return 0
}

// congestionOf asks a socket that begins to connect which congestion control
// it has.
func congestionOf(to [4]byte) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: to}); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return "", err
	}
	return unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
}
