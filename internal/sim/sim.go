package sim

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/history"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// Options of a run. Zero values are drawn from the seed.
type Options struct {
	Nodes  int                                 // 3 to 7, of which 3 or 5 are voters of each group
	Groups int                                 // 1 to 4
	Faulty time.Duration                       // how long faults go on; default 30 s of virtual time
	Logger *slog.Logger                        // of the nodes; nil: none
	Tell   func(what string, values ...uint64) // everything that is noted and put off; nil: not told
}

// Result is what a run gave.
type Result struct {
	Report    *history.Report
	Trace     uint64 // equal for two runs of a seed
	Steps     uint64
	Proposals int
	Commits   int // delivered, over all subscribers
	Crashes   int
	Faults    map[string]int
	Virtual   time.Duration
	Scene     []string // where everybody stood, if they did not agree in the end
}

// Sim is one run.
type Sim struct {
	*loop
	seed   uint64
	opt    Options
	net    network
	sched  scheduler
	nodes  []*node
	byID   map[id.Node]*node
	groups []id.Structure
	rec    *history.Recorder
	quiet  bool                 // nobody proposes by himself any more
	silent map[id.Structure]int // structures for which hardly anybody proposes, for now

	numbers   int
	proposals int
	commits   int
	crashes   int
	faults    map[string]int
	errs      []error
	scene     []string
}

// bound is how long a proposal may take once the faults are over: ten election
// time-outs.
const bound = 20 * time.Second

// Raft draws its election jitter from crypto/rand.Reader; for the time of a run
// that is the seed's. Runs of one process go one after the other.
var entropy sync.Mutex

// Run runs a seed.
func Run(seed uint64, opt Options) (*Result, error) {
	entropy.Lock()
	defer entropy.Unlock()
	s := &Sim{loop: newLoop(seed), seed: seed, opt: opt, byID: make(map[id.Node]*node), faults: make(map[string]int), silent: make(map[id.Structure]int)}
	before := rand.Reader
	rand.Reader = mathrand.NewChaCha8(s.key(nil, 0))
	defer func() { rand.Reader = before }()

	s.told = opt.Tell
	s.sched.yield = make(chan struct{})
	s.then = s.runTasks
	defer s.endTasks()
	s.rec = history.NewRecorder(func() time.Time { return s.now }, nil)
	s.net = network{s: s, cut: make(map[[2]int]bool)}
	s.net.calm()
	if err := s.build(); err != nil {
		return nil, fmt.Errorf("seed %d: %w", seed, err)
	}
	begin := s.now
	s.populate()
	s.faultLater()
	s.runUntil(begin.Add(s.opt.Faulty), nil)
	if err := s.settle(); err != nil {
		return nil, fmt.Errorf("seed %d: %w", seed, err)
	}
	h := s.rec.History()
	return &Result{
		Report: history.Check(h, history.Options{Bound: bound}),
		Trace:  s.trace.Sum64(), Steps: s.steps, Proposals: s.proposals, Commits: s.commits, Crashes: s.crashes,
		Faults: s.faults, Virtual: s.now.Sub(begin), Scene: s.scene,
	}, errors.Join(s.errs...)
}

// key is a seed for one source of randomness.
func (s *Sim) key(n *node, what uint64) (key [32]byte) {
	binary.LittleEndian.PutUint64(key[:], s.seed)
	binary.LittleEndian.PutUint64(key[8:], what)
	if n != nil {
		binary.LittleEndian.PutUint64(key[16:], uint64(n.number))
		binary.LittleEndian.PutUint64(key[24:], n.life)
	}
	return key
}

// must notes what never happens.
func (s *Sim) must(err error) {
	if err != nil && len(s.errs) < 10 {
		s.errs = append(s.errs, fmt.Errorf("seed %d, at %s: %w", s.seed, s.now.Format("05.000"), err))
	}
}

func (s *Sim) build() error {
	if s.opt.Nodes == 0 {
		s.opt.Nodes = 3 + s.rng.IntN(5)
	}
	if s.opt.Groups == 0 {
		s.opt.Groups = 1 + s.rng.IntN(4)
	}
	if s.opt.Faulty == 0 {
		s.opt.Faulty = 30 * time.Second
	}
	for i := range s.opt.Nodes {
		n := &node{s: s, number: i + 1, dc: fmt.Sprintf("dc%d", i%3), fs: vfs.NewMem(), cold: wal.NewMemCold()}
		binary.BigEndian.PutUint64(n.id[8:], uint64(i+1))
		s.nodes = append(s.nodes, n)
		s.byID[n.id] = n
		if err := n.start(); err != nil {
			return err
		}
	}
	for i := range s.opt.Groups {
		var st id.Structure
		binary.BigEndian.PutUint64(st[8:], uint64(i+1))
		s.groups = append(s.groups, st)
		voters := 3
		if s.opt.Nodes >= 5 && s.chance(0.5) {
			voters = 5
		}
		g := raftgroup.Genesis{
			Group: id.Group{Structure: st}, Members: make(map[id.Replica]id.Node),
			Options: raftgroup.Options{Voters: uint32(voters), SnapshotEntries: uint64(50 + s.rng.IntN(500))},
		}
		copy(g.Token[:], st[:])
		first := voters
		if s.chance(0.3) {
			first = 1 // it grows while the faults go on
		}
		for k, p := range s.rng.Perm(s.opt.Nodes)[:first] {
			g.Members[id.Replica(k+1)] = s.nodes[p].id
		}
		for _, n := range s.nodes {
			if err := n.found(g); err != nil {
				return err
			}
		}
	}
	return nil
}

// found makes a node's first replica of a group, if it is one of its members.
func (n *node) found(g raftgroup.Genesis) error {
	for _, member := range g.Members {
		if member == n.id {
			return n.prepare(g)
		}
	}
	return nil
}

// populate subscribes on every node that has a replica, and again whenever
// nobody is there.
func (s *Sim) populate() {
	for _, n := range s.nodes {
		if n.up && !n.paused {
			s.populateNode(n, s.quiet)
		}
	}
	if !s.quiet {
		s.after(s.between(100*time.Millisecond, 2*time.Second), s.populate)
	}
}

func (s *Sim) populateNode(n *node, all bool) {
	for i, st := range s.groups {
		if g, here := n.host.Group(st); here && g.Status().Failed {
			continue
		} else if !here {
			if !all && !s.chance(0.2) {
				continue
			}
			s.must(n.host.Join(st, id.Node{}))
		}
		count := 0
		for _, sub := range n.subs {
			if sub.group == i && !sub.leaving {
				count++
			}
		}
		if count == 0 && (all || s.chance(0.7)) || count == 1 && s.chance(0.02) {
			s.must(n.subscribe(i))
		}
	}
	n.work()
}

// settle ends the faults, has everybody propose once more, and waits until all
// agree, or the bound is over.
func (s *Sim) settle() error {
	s.quiet = true
	if err := s.calm(); err != nil {
		return err
	}
	s.runUntil(s.now.Add(3*time.Second), nil)
	for _, n := range s.nodes {
		s.populateNode(n, true)
		for _, sub := range n.subs {
			sub.pace = 20 * time.Millisecond
			if !sub.leaving {
				sub.propose()
			}
		}
		n.work()
	}
	s.runUntil(s.now.Add(bound+10*time.Second), s.agreed)
	s.rec.End()
	if !s.agreed() {
		s.describe()
	}
	return nil
}

// describe keeps where everybody stands, for who has to find out why.
func (s *Sim) describe() {
	for _, n := range s.nodes {
		for _, g := range n.host.Groups() {
			s.scene = append(s.scene, fmt.Sprintf("node %d.%d: %+v", n.number, n.life, g))
		}
		for _, sub := range n.subs {
			count, digest := sub.journal.Len()
			s.scene = append(s.scene, fmt.Sprintf("%s: %d items, digest %x, %d open, due %t, leaving %t; %s",
				sub.journal.Subscriber(), count, digest, sub.journal.Open(), sub.due, sub.leaving, sub.m.Describe()))
		}
	}
}

// agreed reports whether all subscribers of each structure have the same.
func (s *Sim) agreed() bool {
	type view struct {
		n      int
		digest uint64
	}
	views := make(map[int]view)
	for _, n := range s.nodes {
		for _, sub := range n.subs {
			count, digest := sub.journal.Len()
			v, seen := views[sub.group]
			if sub.journal.Open() > 0 || sub.leaving || (seen && v != view{count, digest}) {
				return false
			}
			views[sub.group] = view{count, digest}
		}
	}
	return true
}

// WriteTo prints what a run gave.
func (r *Result) WriteTo(w io.Writer) (int64, error) {
	n, err := fmt.Fprintf(w, "%s of virtual time, %d steps, %d proposals, %d deliveries, %d crashes, faults %v, trace %016x\n",
		r.Virtual, r.Steps, r.Proposals, r.Commits, r.Crashes, r.Faults, r.Trace)
	return int64(n), err
}
