package wan

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// ErrUnsupported says that this system, or this user, cannot have network
// namespaces; it comes wrapped with the reason.
var ErrUnsupported = errors.New("network namespaces cannot be had here")

// ErrClosed: the network has ended.
var ErrClosed = errors.New("network is closed")

// Mode is how a network is emulated.
type Mode string

// The modes.
const (
	// Auto takes namespaces where they can be had, and proxies elsewhere.
	Auto Mode = ""
	// Namespaces are network namespaces behind a relay.
	Namespaces Mode = "namespaces"
	// Proxies are TCP and UDP proxies on loopback addresses.
	Proxies Mode = "proxies"
)

// Link is one direction between two data centers, or the inside of one. The
// zero value passes everything on at once.
type Link struct {
	// Delay is how long a packet takes, Jitter the most that chance adds to
	// it. Packets keep their order.
	Delay  time.Duration `json:"delay_ns"`
	Jitter time.Duration `json:"jitter_ns,omitempty"`
	// Loss is the share of packets that are lost, from 0 to 1, each by itself.
	Loss float64 `json:"loss,omitempty"`
	// Rate is in bits per second, IP headers included, shared by all hosts; 0:
	// no limit.
	Rate int64 `json:"bits_per_second,omitempty"`
	// Queue bounds what waits for the rate, in bytes. 0: what the link carries
	// in twice its delay, at least 64 KiB.
	Queue int `json:"queue_bytes,omitempty"`
	// Cut drops everything.
	Cut bool `json:"cut,omitempty"`
}

// minQueue is the least that a queue holds by default: a burst of one packet
// that the kernel has not cut.
const minQueue = 64 << 10

func (l Link) queue() int {
	if l.Queue > 0 {
		return l.Queue
	}
	return max(minQueue, int(float64(l.Rate)/8*2*l.Delay.Seconds()))
}

// Center is a data center.
type Center struct {
	Name  string
	Hosts int
}

// Config says what is emulated.
type Config struct {
	Centers []Center
	// Link gives the links at the start, by the indexes of the data centers;
	// nil: all are zero.
	Link func(from, to int) Link
	Mode Mode
	// Congestion is the congestion control of TCP. Default cubic.
	Congestion string
	// SocketBuffer bounds the buffers that TCP makes by itself, in bytes for
	// each socket and direction. Default 32 MiB.
	SocketBuffer int
	// Seed decides about loss and jitter.
	Seed uint64
	// Realtime gives this whole process a real-time priority, for good, and not
	// only the relay's thread, which depends on the others. For a process that
	// does little else: threads that wait for one another by spinning, as those
	// of a Go program do, can take all of a small machine for good. Where there are no namespaces, it has no effect.
	Realtime bool
}

// RoundTrips makes symmetrical links of a matrix of round-trip times.
func RoundTrips(matrix [][]time.Duration) func(from, to int) Link {
	return func(from, to int) Link { return Link{Delay: matrix[from][to] / 2} }
}

const (
	defaultCongestion   = "cubic"
	defaultSocketBuffer = 32 << 20
	maxCenters          = 64
	maxHosts            = 64
)

func (c *Config) validate() error {
	var errs []error
	if n := len(c.Centers); n < 1 || n > maxCenters {
		errs = append(errs, fmt.Errorf("%d data centers, need 1 to %d", n, maxCenters))
	}
	hosts := 0
	for _, x := range c.Centers {
		if x.Hosts < 1 {
			errs = append(errs, fmt.Errorf("data center %q has %d hosts", x.Name, x.Hosts))
		}
		hosts += x.Hosts
	}
	if hosts > maxHosts {
		errs = append(errs, fmt.Errorf("%d hosts, at most %d", hosts, maxHosts))
	}
	if !slices.Contains([]Mode{Auto, Namespaces, Proxies}, c.Mode) {
		errs = append(errs, fmt.Errorf("mode %q, need %q or %q", c.Mode, Namespaces, Proxies))
	}
	return errors.Join(errs...)
}

// backend is one way to emulate. Net serializes set and isolate.
type backend interface {
	set(from, to int, link Link)
	isolate(host int, cut bool)
	start(host int, cmd *exec.Cmd) error
	// probe sends n packets from one host to another and back, one after the
	// other, and returns the round-trip times of those that came back.
	probe(from, to, n int, wait time.Duration) ([]time.Duration, error)
	reset()
	report(*Report)
	close() error
}

// Net is an emulated network. Its methods are safe for concurrent use.
type Net struct {
	cfg     Config
	mode    Mode
	why     string // no namespaces
	hosts   []*Host
	backend backend

	mu     sync.Mutex
	links  map[[2]int]Link // as they are without cuts by Partition
	cmds   []*exec.Cmd
	closed bool
}

// Host is one machine of a data center: a namespace, or a loopback address.
type Host struct {
	net    *Net
	Index  int // among all hosts
	Center int // index of its data center
	Name   string
	// Address is by which others reach the host, Bind what to listen on there.
	Address, Bind netip.Addr
	// StreamPort takes TCP, GossipPort TCP and UDP. They are the ports that
	// work in every mode; in a namespace all do.
	StreamPort, GossipPort uint16
}

// New makes a network. The caller closes it. With namespaces, the relay
// competes with this process's own goroutines for its GOMAXPROCS: a process
// that does more than wait needs more than it has busy goroutines.
func New(cfg Config) (*Net, error) {
	cfg.Congestion = cmp.Or(cfg.Congestion, defaultCongestion)
	cfg.SocketBuffer = cmp.Or(cfg.SocketBuffer, defaultSocketBuffer)
	if cfg.Link == nil {
		cfg.Link = func(int, int) Link { return Link{} }
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("emulated network: %w", err)
	}
	n := &Net{cfg: cfg, mode: cfg.Mode, links: make(map[[2]int]Link)}
	for c, x := range cfg.Centers {
		for i := range x.Hosts {
			n.hosts = append(n.hosts, &Host{net: n, Index: len(n.hosts), Center: c, Name: fmt.Sprintf("%s-%d", x.Name, i+1)})
		}
	}
	if err := n.open(); err != nil {
		return nil, fmt.Errorf("emulated network: %w", err)
	}
	for from := range cfg.Centers {
		for to := range cfg.Centers {
			n.Set(from, to, cfg.Link(from, to))
		}
	}
	return n, nil
}

func (n *Net) open() (err error) {
	if n.mode != Proxies {
		n.backend, err = newNamespaces(n)
		switch {
		case err == nil:
			n.mode = Namespaces
			return nil
		case n.mode == Namespaces || !errors.Is(err, ErrUnsupported):
			return err
		}
		n.why = err.Error()
	}
	n.mode = Proxies
	n.backend, err = newProxies(n)
	return err
}

// Mode tells which way it is emulated: never Auto.
func (n *Net) Mode() Mode { return n.mode }

// Hosts returns all hosts, data center by data center.
func (n *Net) Hosts() []*Host { return n.hosts }

// Link returns the link from one data center to another.
func (n *Net) Link(from, to int) Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[[2]int{from, to}]
}

// Set replaces a link.
func (n *Net) Set(from, to int, link Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setLocked(from, to, link)
}

func (n *Net) setLocked(from, to int, link Link) {
	n.links[[2]int{from, to}] = link
	if !n.closed {
		n.backend.set(from, to, link)
	}
}

// Partition cuts the links between data centers of different groups. A data
// center that is in no group keeps all its links.
func (n *Net) Partition(groups ...[]int) {
	group := make(map[int]int)
	for i, g := range groups {
		for _, c := range g {
			group[c] = i
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for pair, link := range n.links {
		a, one := group[pair[0]]
		b, other := group[pair[1]]
		if one && other && a != b {
			link.Cut = true
			n.setLocked(pair[0], pair[1], link)
		}
	}
}

// Heal undoes all cuts of links, and of hosts.
func (n *Net) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for pair, link := range n.links {
		link.Cut = false
		n.setLocked(pair[0], pair[1], link)
	}
	if n.closed {
		return
	}
	for _, h := range n.hosts {
		n.backend.isolate(h.Index, false)
	}
}

// Isolate cuts a host off from all others, or no longer.
func (h *Host) Isolate(cut bool) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if !h.net.closed {
		h.net.backend.isolate(h.Index, cut)
	}
}

// Start starts a command on the host, like Cmd.Start. The kernel kills it when
// this process ends (on Linux), and Close does so too; the caller waits for it.
func (h *Host) Start(cmd *exec.Cmd) error {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.net.closed {
		return ErrClosed
	}
	if err := h.net.backend.start(h.Index, cmd); err != nil {
		return fmt.Errorf("start on host %s: %w", h.Name, err)
	}
	h.net.cmds = append(h.net.cmds, cmd)
	return nil
}

// Close kills what was started and still runs, and ends the network.
func (n *Net) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	for _, cmd := range n.cmds {
		_ = cmd.Process.Kill() // an error says that it has ended
	}
	return n.backend.close()
}
