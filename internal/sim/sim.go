package sim

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/history"
	"github.com/copycat-replication/copycat/internal/history/register"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// Options say who looks on.
type Options struct {
	Logger *slog.Logger                        // of the nodes; nil: none
	Tell   func(what string, values ...uint64) // everything that is noted and put off; nil: not told
	Disk   func(*vfs.Mem) vfs.FS               // how a process sees its disk; nil: as it is
}

// Result is what a run gave.
type Result struct {
	Report    *history.Report
	Trace     uint64 // equal for two runs of a seed
	Steps     uint64
	Proposals int
	Commits   int // delivered, over all subscribers
	Crashes   int
	Births    int // that the catalog decided
	Deaths    int // structures of which a life was ended
	Registers int // operations that were held against a model of registers
	Barriers  int // times that several nodes asked for one structure at once
	Stored    int // snapshots that were read and checked when the log named them
	Faults    map[string]int
	Flips     map[string]int // bits flipped, by where
	Found     map[string]int // what was found of them
	Virtual   time.Duration
	Town      TownFigures
	Scene     []string // where everybody stood, if they did not agree in the end
}

// Sim is one run.
type Sim struct {
	*loop
	seed  uint64
	plan  Plan
	opt   Options
	net   network
	sched scheduler
	town  *town // what a town has beside; nil: this run is none
	nodes []*node
	byID  map[id.Node]*node
	rec   *history.Recorder
	watch *watch
	epoch time.Time // when the run began
	begin time.Time // when the faults began
	quiet bool      // nobody proposes by himself any more

	structures []structure
	numbered   map[id.Group]uint16 // numbers of lives in the history
	bornYet    uint16              // lives that have numbers, of structures that are born

	numbers   int
	proposals int
	commits   int
	crashes   int
	barriers  int
	refused   int // births that came to nothing in time
	stored    int
	faults    map[string]int
	flips     map[string]int // bits that were flipped, by where
	noticed   map[string]int // what was found of it
	victim    *node          // on which bits are flipped
	errs      []error
	scene     []string
}

// bound is how long a proposal may take once the faults are over: ten election
// time-outs.
const bound = 20 * time.Second

// Raft draws its election jitter from crypto/rand.Reader; for the time of a run
// that is the seed's. Runs of one process go one after the other.
var entropy sync.Mutex

// newSim makes the nodes of a plan, their catalog and the structures that are
// there from the start. end gives the process's randomness back.
func newSim(plan Plan, opt Options) (s *Sim, end func(), err error) {
	entropy.Lock()
	s = &Sim{
		loop: newLoop(plan.Seed, plan.Salt), seed: plan.Seed, plan: plan, opt: opt, byID: make(map[id.Node]*node),
		faults: make(map[string]int), flips: make(map[string]int), noticed: make(map[string]int), numbered: make(map[id.Group]uint16),
	}
	before := rand.Reader
	rand.Reader = mathrand.NewChaCha8(s.key(nil, 0))
	s.told = opt.Tell
	s.sched.yield = make(chan struct{})
	s.then = s.runTasks
	end = func() {
		s.endTasks()
		rand.Reader = before
		entropy.Unlock()
	}
	s.rec = history.NewRecorder(func() time.Time { return s.now }, nil)
	s.watch, s.epoch = newWatch(s), s.now
	s.net = network{s: s, cut: make(map[[2]int]bool)}
	s.net.calm()
	if plan.Town {
		s.town = newTown(s)
		return s, end, s.town.found()
	}
	return s, end, s.build()
}

// Run runs a plan. The error says what was seen to be wrong while it ran; the
// result has the verdict on the history.
func Run(plan Plan, opt Options) (*Result, error) {
	s, end, err := newSim(plan, opt)
	defer end()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", plan, err)
	}
	s.begin = s.now
	if plan.Town {
		return s.town.run()
	}
	s.populate()
	for i := range s.structures {
		if st := &s.structures[i]; st.born {
			s.after(st.since, func() { s.barrier(i) })
			if s.chance(0.5) {
				st.stage = doomed
				s.deleteLater(st, st.since+s.between(time.Second, plan.faulty()/3))
			}
		}
	}
	for _, f := range plan.schedule() {
		s.after(f.at, func() { s.fault(f) })
	}
	s.runUntil(s.begin.Add(plan.faulty()), nil)
	if err := s.settle(); err != nil {
		return nil, fmt.Errorf("%s: %w", plan, err)
	}
	h := s.rec.History()
	r := &Result{
		Report: history.Check(h, history.Options{Bound: bound}),
		Trace:  s.trace.Sum64(), Steps: s.steps, Proposals: s.proposals, Commits: s.commits, Crashes: s.crashes,
		Faults: s.faults, Virtual: s.now.Sub(s.begin), Births: len(s.watch.births), Deaths: len(s.watch.deaths),
		Flips: s.flips, Found: s.noticed, Barriers: s.barriers, Stored: s.stored, Scene: s.scene,
	}
	if plan.Registers && r.Report.Err() == nil {
		r.Registers, err = s.checkRegisters(h, r.Report)
	}
	return r, errors.Join(append(s.errs, err)...)
}

// registerTime bounds the search for one key, on the machine's own clock: it takes a fraction of a second, or for ever.
const registerTime = 2 * time.Minute

// checkRegisters holds the map of each life of each structure against a model.
func (s *Sim) checkRegisters(h *history.History, report *history.Report) (ops int, _ error) {
	var numbers []uint16
	for _, l := range h.Logs {
		if !slices.Contains(numbers, l.Sub.Structure) {
			numbers = append(numbers, l.Sub.Structure)
		}
	}
	var errs []error
	for _, number := range numbers {
		n, err := register.Check(h, number, report.Order(number), registerTime)
		ops += n
		errs = append(errs, err)
	}
	return ops, errors.Join(errs...)
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

func (s *Sim) random(n *node, what uint64) *mathrand.ChaCha8 {
	return mathrand.NewChaCha8(s.key(n, what))
}

func (s *Sim) build() error {
	count := 3 + s.rng.IntN(5)
	if s.plan.Nodes != 0 {
		count = s.plan.Nodes
	}
	groups := 1 + s.rng.IntN(4)
	if s.plan.Groups != 0 {
		groups = s.plan.Groups
	}
	for i := range count {
		n := &node{s: s, number: i + 1, dc: fmt.Sprintf("dc%d", i%3), fs: vfs.NewMem(), cold: wal.NewMemCold()}
		binary.BigEndian.PutUint64(n.id[8:], uint64(i+1))
		s.nodes = append(s.nodes, n)
		s.byID[n.id] = n
		if err := n.start(); err != nil {
			return err
		}
	}
	if err := s.foundCatalog(); err != nil {
		return err
	}
	for i := range groups {
		st := structure{born: s.chance(0.5), since: s.between(0, s.plan.faulty()*2/3)}
		if !st.born {
			st.since = 0
		}
		binary.BigEndian.PutUint64(st.id[8:], uint64(i+1))
		s.structures = append(s.structures, st)
		if !st.born {
			if err := s.found(st.id); err != nil {
				return err
			}
		}
	}
	return nil
}

// found makes the first replicas of a group that is there from the start.
func (s *Sim) found(st id.Structure) error {
	voters := 3
	if len(s.nodes) >= 5 && s.chance(0.5) {
		voters = 5
	}
	g := raftgroup.Genesis{
		Group: id.Group{Structure: st}, Members: make(map[id.Replica]id.Node),
		Options: raftgroup.Options{Voters: uint32(voters), SnapshotEntries: s.snapshotEntries()},
	}
	copy(g.Token[:], st[:])
	first := voters
	if s.chance(0.3) {
		first = 1 // it grows while the faults go on
	}
	for k, p := range s.rng.Perm(len(s.nodes))[:first] {
		g.Members[id.Replica(k+1)] = s.nodes[p].id
	}
	for _, n := range s.nodes {
		if err := n.found(g); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sim) snapshotEntries() uint64 { return uint64(50 + s.rng.IntN(500)) }

// isBorn reports whether the catalog decides about a structure.
func (s *Sim) isBorn(st id.Structure) bool {
	for i := range s.structures {
		if s.structures[i].id == st {
			return s.structures[i].born
		}
	}
	return false
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
	for i := range s.structures {
		st := &s.structures[i]
		if g, here := n.host.Group(st.id); here && g.Status().Failed {
			continue
		} else if !here {
			if all || s.chance(0.2) {
				n.ask(i)
			}
			continue
		}
		count := n.subscribers(i)
		if count == 0 && (all || s.chance(0.7)) || count == 1 && s.chance(0.02) {
			s.must(n.subscribe(i))
		}
	}
	n.work()
}

// subscribers counts a node's subscriptions that are to stay.
func (n *node) subscribers(i int) int {
	count := 0
	for _, sub := range n.subs {
		if sub.group == i && !sub.leaving {
			count++
		}
	}
	return count
}

// settle ends the faults, has everybody subscribe and propose once more, and
// waits until all agree, or the bound is over.
func (s *Sim) settle() error {
	s.quiet = true
	if err := s.calm(); err != nil {
		return err
	}
	s.runUntil(s.now.Add(3*time.Second), nil)
	// Births succeed now, whatever was left behind.
	for limit := s.now.Add(birthBound); !(s.settled() && s.everywhere()) && s.now.Before(limit); {
		for _, n := range s.nodes {
			s.populateNode(n, true)
		}
		s.runUntil(s.now.Add(200*time.Millisecond), nil)
	}
	if !s.settled() || !s.everywhere() {
		s.broken("after the faults a structure was not born, not deleted and created anew, or not subscribed to, within %s", birthBound)
	}
	for _, n := range s.nodes {
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

// birthBound is how long births may take once the faults are over: sweepers
// have to settle what was left behind first.
const birthBound = 3 * time.Minute

// everywhere reports whether each node has a subscription to each structure.
func (s *Sim) everywhere() bool {
	for _, n := range s.nodes {
		for i := range s.structures {
			st := &s.structures[i]
			if n.subscribers(i) == 0 || st.born && !n.holdsLife(st.id) || !n.isMember(st.id) {
				return false
			}
		}
	}
	return true
}

// isMember reports whether a node's replica of a structure is a member of its
// group. One that was replaced while its node was away asks for that only
// after a while, and the longer the more often nobody could tell.
func (n *node) isMember(st id.Structure) bool {
	g, here := n.host.Group(st)
	if !here {
		return false
	}
	self, newest := g.Status(), n.s.newest(g.Key())
	_, voter := newest.Voters[self.Replica]
	_, learner := newest.Learners[self.Replica]
	return voter || learner
}

// holdsLife reports whether a node has a replica of a structure's present life.
func (n *node) holdsLife(st id.Structure) bool {
	g, here := n.host.Group(st)
	return here && g.Key().Incarnation.Birth == n.s.watch.lives(st)
}

func (s *Sim) broken(format string, args ...any) {
	s.must(fmt.Errorf("%w: %w", errInvariant, fmt.Errorf(format, args...)))
	s.describe()
}

// describe keeps where everybody stands, for who has to find out why.
func (s *Sim) describe() {
	for i := range s.structures {
		st := &s.structures[i]
		s.scene = append(s.scene, fmt.Sprintf("structure %s: born %t, stage %d, lives as %d, died %d, last %v", st.id, st.born, st.stage, s.watch.lives(st.id), s.watch.deaths[st.id], st.last))
	}
	for _, n := range s.nodes {
		for _, g := range n.host.Groups() {
			s.scene = append(s.scene, fmt.Sprintf("node %d.%d: %s: replica %d %s of %v and %v, term %d, leader %d, commit %d, applied %d, %d commits, %s; %v",
				n.number, n.life, g.Group, g.Replica, g.Role, replicas(g.Voters), replicas(g.Learners), g.Term, g.Leader, g.Commit, g.Applied, g.Commits, g.Snapshot, g.LastError))
		}
		for _, sub := range n.subs {
			if sub.journal == nil {
				s.scene = append(s.scene, fmt.Sprintf("node %d.%d: a subscription to %s without a replica; %s", n.number, n.life, s.structures[sub.group].id, sub.m.Describe()))
				continue
			}
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
	views := make(map[uint16]view)
	for _, n := range s.nodes {
		for _, sub := range n.subs {
			if sub.journal == nil || s.watch.died(sub.of) {
				return false
			}
			number := sub.journal.Subscriber().Structure
			count, digest := sub.journal.Len()
			v, seen := views[number]
			if sub.journal.Open() > 0 || sub.leaving || (seen && v != view{count, digest}) {
				return false
			}
			views[number] = view{count, digest}
		}
	}
	return true
}

// WriteTo prints what a run gave.
func (r *Result) WriteTo(w io.Writer) (int64, error) {
	n, err := fmt.Fprintf(w, "%s of virtual time, %d steps, %d proposals, %d deliveries, %d crashes, %d births, %d snapshots, faults %v, trace %016x\n",
		r.Virtual, r.Steps, r.Proposals, r.Commits, r.Crashes, r.Births, r.Stored, r.Faults, r.Trace)
	return int64(n), err
}
