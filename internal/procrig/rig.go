package procrig

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/history"
	"github.com/copycat-replication/copycat/internal/netproxy"
)

// ElectionTimeout is the longest that a replica waits for a leader before it
// elects another one. After the faults, proposals go through within ten of them.
const ElectionTimeout = 2 * time.Second

// Bound is ten election time-outs.
const Bound = 10 * ElectionTimeout

// Options of a rig. Zero values mean the defaults.
type Options struct {
	// DataCenters has one element per node. Default: three nodes in three.
	DataCenters []string
	// SnapshotEntries makes a snapshot due after that many commits. Default 500.
	SnapshotEntries uint64
	// Padding makes snapshots that many bytes larger.
	Padding int
	// Size is the size of a proposal in bytes. Default 100.
	Size int
	// Registers has loads write and read few keys, with few proposals of each
	// subscription under way, as a search for a linear order needs it.
	Registers bool
	// ReplaceAfter is Config.ReplaceAfter, as text. Default: that of Config.
	ReplaceAfter string
	// Link is how all links behave without a fault.
	Link netproxy.Link
	// Complaints are texts that the nodes may log as errors, since the test
	// breaks something that an operator must hear of. Any other error in a log
	// fails the test.
	Complaints []string
	// Seed is for what the proxies leave to chance, and for Rig.Random.
	Seed uint64
}

// Rig is a cluster of processes. Its methods are for the test's goroutine.
type Rig struct {
	t     testing.TB
	opt   Options
	dir   string
	Nodes []*Node
	Net   *netproxy.Proxy
	// Random follows from the seed.
	Random *mrand.Rand
	who    *netproxy.Processes

	recorder   *history.Recorder
	file       *os.File
	structures []*Structure

	unwatch context.CancelFunc // ends the watch of stalls
	watched chan error
}

// Structure is a data structure of a rig.
type Structure struct {
	ID     string
	number uint16
}

// New makes a rig, with fronts for all nodes; no node is started. It skips the
// test where the system cannot tell who dials.
func New(t testing.TB, opt Options) *Rig {
	t.Helper()
	if err := netproxy.Supported(); err != nil {
		t.Skip(err)
	}
	if len(opt.DataCenters) == 0 {
		opt.DataCenters = []string{"dc1", "dc2", "dc3"}
	}
	if opt.SnapshotEntries == 0 {
		opt.SnapshotEntries = 500
	}
	if opt.Size == 0 {
		opt.Size = 100
	}
	dir, err := os.MkdirTemp("", "copycat-processes-")
	if err != nil {
		t.Fatal(err)
	}
	r := &Rig{t: t, opt: opt, dir: dir, who: &netproxy.Processes{}, Random: mrand.New(mrand.NewPCG(opt.Seed, 1))} //nolint:gosec // a schedule, not a secret
	t.Logf("seed %d", opt.Seed)
	t.Cleanup(r.cleanup)
	r.Net = netproxy.New(netproxy.Config{Owner: r.who.Owner, Seed: opt.Seed})
	if r.file, err = os.Create(filepath.Join(dir, "history-rig.jsonl")); err != nil {
		t.Fatal(err)
	}
	r.recorder = history.NewRecorder(time.Now, r.file)
	stalls, err := os.Create(filepath.Join(dir, "stalls-rig"))
	if err != nil {
		t.Fatal(err)
	}
	watch, unwatch := context.WithCancel(context.Background())
	r.unwatch, r.watched = unwatch, make(chan error, 1)
	go func() { r.watched <- errors.Join(watchStalls(watch, stalls), stalls.Close()) }() // cleanup waits for it
	// Two octets of chance keep rigs of several test processes apart.
	var chance [2]byte
	if _, err := rand.Read(chance[:]); err != nil {
		t.Fatal(err)
	}
	for i, dc := range opt.DataCenters {
		n := &Node{rig: r, Number: uint16(i + 1), DataCenter: dc, Dir: filepath.Join(dir, fmt.Sprintf("data%d", i+1))}
		r.Nodes = append(r.Nodes, n)
		n.front.ip = fmt.Sprintf("127.%d.%d.%d", 128+chance[0]%64, chance[1], i+1)
		n.back.ip = fmt.Sprintf("127.%d.%d.%d", 64+chance[0]%64, chance[1], i+1)
		if err := r.addFronts(n); err != nil {
			t.Fatal(err)
		}
	}
	r.Net.SetAll(opt.Link)
	return r
}

// portAttempts: a port that is free for TCP may be taken for UDP.
const portAttempts = 10

func (r *Rig) addFronts(n *Node) error {
	front, back := netip.MustParseAddr(n.front.ip), netip.MustParseAddr(n.back.ip)
	node := netproxy.Node(n.Number)
	at, err := r.Net.AddTCP(node, netip.AddrPortFrom(front, 0), netip.AddrPortFrom(back, 0))
	if err != nil {
		return err
	}
	n.front.copycat = at.Port()
	for range portAttempts {
		if at, err = r.Net.AddTCP(node, netip.AddrPortFrom(front, 0), netip.AddrPortFrom(back, 0)); err != nil {
			return err
		}
		_, err = r.Net.AddUDP(node, at, netip.AddrPortFrom(back, at.Port()))
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	n.front.gossip = at.Port()
	return err
}

// cleanup ends what is left, and keeps the evidence of a failure.
func (r *Rig) cleanup() {
	for _, n := range r.Nodes {
		n.end()
	}
	if r.unwatch != nil {
		r.unwatch()
		if err := <-r.watched; err != nil {
			r.t.Error(err)
		}
	}
	if r.Net != nil {
		if err := r.Net.Close(); err != nil {
			r.t.Error(err)
		}
	}
	if r.file != nil {
		if err := errors.Join(r.recorder.Err(), r.file.Close()); err != nil {
			r.t.Error(err)
		}
	}
	if err := r.checkLogs(); err != nil {
		r.t.Errorf("seed %d: logged: %v", r.opt.Seed, err)
	}
	if r.t.Failed() {
		r.t.Logf("histories, logs and data are kept in %s", r.dir)
		return
	}
	if err := os.RemoveAll(r.dir); err != nil {
		r.t.Error(err)
	}
}

// Structure names a new data structure. The first subscription creates it.
func (r *Rig) Structure() *Structure {
	r.t.Helper()
	s, err := id.NewStructure(time.Now(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.add(s.String())
}

func (r *Rig) add(id string) *Structure {
	x := &Structure{ID: id, number: uint16(len(r.structures) + 1)}
	r.structures = append(r.structures, x)
	return x
}

// Allocate has a node create a data structure with so many voters.
func (r *Rig) Allocate(n *Node, voters int) *Structure {
	r.t.Helper()
	var id string
	if err := n.call("allocate", allocateRequest{Voters: voters}, &id); err != nil {
		r.t.Fatal(err)
	}
	return r.add(id)
}

// StartAll starts all nodes that do not run, the first one first.
func (r *Rig) StartAll() {
	r.t.Helper()
	for _, n := range r.Nodes {
		if !n.Alive() {
			n.Start()
		}
	}
	r.AwaitAlive(len(r.Nodes))
}

func (r *Rig) historyFile(node uint16, process uint32) string {
	return filepath.Join(r.dir, fmt.Sprintf("history-%d.%d.jsonl", node, process))
}

func (r *Rig) stallsFile(node uint16, process uint32) string {
	return filepath.Join(r.dir, fmt.Sprintf("stalls-%d.%d", node, process))
}

func (r *Rig) logFile(node uint16, process uint32) string {
	return filepath.Join(r.dir, fmt.Sprintf("node%d.%d.log", node, process))
}

// Fault records that something was broken, and returns what records that it
// was mended.
func (r *Rig) Fault(format string, args ...any) (mended func()) {
	what := fmt.Sprintf(format, args...)
	r.t.Logf("fault: %s", what)
	r.recorder.FaultStart(what)
	return func() {
		r.t.Logf("mended: %s", what)
		r.recorder.FaultStop(what)
	}
}

// pollEvery is how often real processes are asked for a condition: it cannot
// be waited on across them.
const pollEvery = 25 * time.Millisecond

// Wait polls until ok says yes; it fails the test after limit, with the last
// reason.
func (r *Rig) Wait(limit time.Duration, what string, ok func() (bool, string)) {
	r.t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		done, why := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			r.dump()
			r.t.Fatalf("not within %s: %s: %s", limit, what, why)
		}
		<-tick.C
	}
}

// dump logs what the nodes say of themselves.
func (r *Rig) dump() {
	for _, n := range r.Nodes {
		if !n.Alive() || n.stopped {
			r.t.Logf("node %d: no process, or stopped", n.Number)
			continue
		}
		st, err := n.Status()
		r.t.Logf("node %d (%s): %+v, %v", n.Number, n.ID, st, err)
		for _, s := range n.subs {
			state, err := s.State()
			r.t.Logf("node %d, subscription %d: %+v, %v", n.Number, s.number, state, err)
		}
	}
	r.t.Logf("proxy: %+v", r.Net.Stats())
}

// AwaitAlive waits until every running node sees so many nodes alive.
func (r *Rig) AwaitAlive(count int) {
	r.t.Helper()
	r.Wait(2*time.Minute, fmt.Sprintf("%d nodes alive", count), func() (bool, string) {
		for _, n := range r.running() {
			st, err := n.Status()
			if err != nil {
				return false, err.Error()
			}
			if st.Alive != count {
				return false, fmt.Sprintf("node %d sees %d", n.Number, st.Alive)
			}
		}
		return true, ""
	})
}

// running returns the nodes whose processes run.
func (r *Rig) running() []*Node {
	var out []*Node
	for _, n := range r.Nodes {
		if n.Alive() && !n.stopped {
			out = append(out, n)
		}
	}
	return out
}

// AwaitVoters waits until the structure has so many voters everywhere, and a
// leader that everybody knows.
func (r *Rig) AwaitVoters(s *Structure, count int) {
	r.t.Helper()
	r.Wait(2*time.Minute, fmt.Sprintf("%d voters and a leader", count), func() (bool, string) {
		for _, n := range r.running() {
			st, err := n.Status()
			if err != nil {
				return false, err.Error()
			}
			x, ok := st.Structure(s.ID)
			if !ok || len(x.Voters) != count || x.Leader == "" {
				return false, fmt.Sprintf("node %d: %+v", n.Number, x)
			}
		}
		return true, ""
	})
}

// Leader waits for a node that leads the structure, and that is not one of
// those given.
func (r *Rig) Leader(s *Structure, not ...*Node) *Node {
	r.t.Helper()
	var leader *Node
	r.Wait(2*time.Minute, "a leader", func() (bool, string) {
		for _, n := range r.running() {
			st, err := n.Status()
			if err != nil {
				return false, err.Error()
			}
			x, ok := st.Structure(s.ID)
			if ok && x.Role == "leader" && !slices.Contains(not, n) {
				leader = n
				return true, ""
			}
		}
		return false, "nobody leads"
	})
	return leader
}

// Others returns the nodes that are not given.
func (r *Rig) Others(but ...*Node) []*Node {
	var out []*Node
	for _, n := range r.Nodes {
		if !slices.Contains(but, n) {
			out = append(out, n)
		}
	}
	return out
}

// More waits until each subscription's data structure has grown by n items.
func (r *Rig) More(n int, subs ...*Subscription) {
	r.t.Helper()
	before := make([]int, len(subs))
	for i, s := range subs {
		st, err := s.State()
		if err != nil {
			r.t.Fatal(err)
		}
		before[i] = st.Len
	}
	r.Wait(2*time.Minute, fmt.Sprintf("%d more commits", n), func() (bool, string) {
		for i, s := range subs {
			st, err := s.State()
			if err != nil {
				return false, err.Error()
			}
			if st.Len < before[i]+n {
				return false, fmt.Sprintf("node %d has %d, had %d", s.Node.Number, st.Len, before[i])
			}
		}
		return true, ""
	})
}
