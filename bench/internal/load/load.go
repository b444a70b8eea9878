package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// System is what is measured. The opener of a system is handed a Load, asks it
// for the Consumer of each node and structure, and has each consumer told what
// is applied there.
type System interface {
	// Leader is the node that leads a structure's group now, so that proposers
	// can be put there, or away from it.
	Leader(structure int) (node int, err error)
	// Propose hands over a payload, which belongs to the system from then on.
	// It blocks when the system pushes back, and is called by one goroutine for
	// each pair of node and structure. An error ends that lane.
	Propose(node, structure int, payload []byte) error
	// Close ends the system. When it returns, no Consumer is called any more.
	Close() error
}

// Killer is a System whose nodes can be ended while the others go on.
type Killer interface {
	// Kill ends a node as a crash would: without a farewell to the others, as
	// far as the system lets one do that inside of a process. From then on the
	// node's consumers are not called.
	Kill(node int) error
}

// Keeper is a System that tells of its snapshots.
type Keeper interface {
	// Kept reports whether every node has a snapshot of a structure on its disk.
	Kept(structure int) bool
}

// ErrUnsupported says that a system has nothing like what the plan asks for.
var ErrUnsupported = errors.New("the system cannot do that")

// Proposers says where the proposers are.
type Proposers string

// The places for proposers.
const (
	AtLeader   Proposers = "leader"   // one for each structure, on its leader's node
	AtFollower Proposers = "follower" // one for each structure, on another node
	AtAll      Proposers = "all"      // one for each structure on each node
)

// HeaderBytes is the least size of a payload.
const HeaderBytes = 8

// Plan is what a run is to do. It is part of the result.
type Plan struct {
	Nodes       int `json:"nodes"`
	Structures  int `json:"structures"`
	Payload     int `json:"payload_bytes"`
	Outstanding int `json:"outstanding"` // over all lanes, at most
	// Rate is how many proposals are due in a second over all lanes, evenly; 0: each is
	// due as soon as the lane's window has room. Latency counts from when a
	// proposal was due, so that what a full window holds back is not left out.
	Rate      float64   `json:"rate,omitempty"`
	Proposers Proposers `json:"proposers"`
	Seconds   float64   `json:"seconds"`
	Warmup    float64   `json:"warmup_seconds"`
	// Subscribers is how many subscribe to each structure: subscriber i on node
	// i modulo Nodes. 0 stands for one on each node; with fewer, the replicas
	// of the other nodes are without one.
	Subscribers int `json:"subscribers,omitempty"`
	// Words makes payloads of words, which a compressor shrinks to less than
	// half. Otherwise they are random, and cannot be compressed.
	Words bool `json:"words,omitempty"`
	// State is the size of a consumer's snapshot; 0: a few bytes.
	State int64 `json:"state_bytes,omitempty"`
}

// Seats is the number of subscribers of each structure.
func (p Plan) Seats() int {
	if p.Subscribers == 0 {
		return p.Nodes
	}
	return p.Subscribers
}

// Subscribed is the number of nodes that have a subscriber: the first ones.
func (p Plan) Subscribed() int { return min(p.Nodes, p.Seats()) }

// Validate reports every fault at once.
func (p Plan) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(p.Nodes >= 1 && p.Nodes <= 255, "nodes: %d, need 1 to 255", p.Nodes)
	check(p.Structures >= 1 && p.Structures <= 1<<16, "structures: %d, need 1 to %d", p.Structures, 1<<16)
	check(p.Payload >= HeaderBytes && p.Payload <= 8<<20, "payload: %d bytes, need %d to %d", p.Payload, HeaderBytes, 8<<20)
	check(p.Outstanding >= 1 && p.Outstanding <= 1<<24, "outstanding: %d, need 1 to %d", p.Outstanding, 1<<24)
	check(p.Rate >= 0 && p.Rate <= 1e8, "rate: %v in a second, need 0 to %v", p.Rate, 1e8)
	check(p.Subscribers >= 0 && p.Subscribers <= 1<<12, "subscribers: %d, need 0 to %d", p.Subscribers, 1<<12)
	check(p.State >= 0 && p.State <= maxState, "state: %d bytes, need 0 to %d", p.State, int64(maxState))
	check(p.Seconds > 0, "seconds: %v, need more than 0", p.Seconds)
	check(p.Warmup >= 0, "warmup: %v, need 0 or more", p.Warmup)
	switch p.Proposers {
	case AtLeader, AtAll:
	case AtFollower:
		check(p.Nodes > 1 && p.Subscribed() == p.Nodes, "proposers: a follower needs more than one node, and a subscriber on each")
	default:
		check(false, "proposers: %q, need leader, follower or all", p.Proposers)
	}
	return errors.Join(errs...)
}

// Load is one run: its lanes, its consumers and its clock.
type Load struct {
	plan      Plan
	consumers []*Consumer // structure*seats + seat
	lanes     []*lane
	template  []byte // random bytes that payloads are cut from

	unordered  bool
	nodesReady func()
	sentBefore map[uint64]uint64 // by lane's tag: the last number of an earlier load
	limit      uint64            // of what each lane sends; 0: none
	gone       atomic.Int64      // the node that was killed, from 1; 0: none

	epoch      time.Time
	start, end int64          // of the window of measuring, in nanoseconds since epoch
	stop       chan struct{}  // closed: the load ends
	proposing  sync.WaitGroup // the lanes
	left       uint64         // what had not come back when Run ended

	warnings atomic.Uint64
	first    atomic.Pointer[error] // the first thing that went wrong
}

// New prepares a run. The plan must be valid.
func New(plan Plan) *Load {
	l := &Load{plan: plan, epoch: time.Now(), stop: make(chan struct{})}
	seats := plan.Seats()
	l.consumers = make([]*Consumer, plan.Structures*seats)
	for s := range plan.Structures {
		for i := range seats {
			l.consumers[s*seats+i] = newConsumer(l, i, s)
		}
	}
	l.template = template(plan)
	return l
}

// template makes what payloads are cut from: random bytes, so that a system that
// compresses gains nothing, or words. The seed is fixed: all runs send the same.
func template(plan Plan) []byte {
	var seed [32]byte
	copy(seed[:], "payloads of the load generator")
	source := rand.NewChaCha8(seed)
	t := make([]byte, max(templateBytes, slabBytes(plan.Payload)))
	if !plan.Words {
		_, _ = source.Read(t) // it never fails
		return t
	}
	for at := 0; at < len(t); {
		at += copy(t[at:], words[source.Uint64()%uint64(len(words))])
	}
	return t
}

// words are those of records as programs write them.
var words = strings.SplitAfter(`{"id":,"name":,"address":,"created":,"updated":,"state":"open",state":"closed",`+
	`true,false,null,2026-01-01T00:00:00Z,customer,order,invoice,warehouse,quantity,price,currency,EUR,USD,`+
	`north,south,east,west,first,second,third,description,reference,"},`, ",")

// Plan is what the run does.
func (l *Load) Plan() Plan { return l.plan }

// Consumer is the receiving end of a structure at a seat. The first seats are
// those of the nodes, one each, and receive what their nodes propose; the
// others, on node seat modulo Nodes, only look on.
func (l *Load) Consumer(seat, structure int) *Consumer {
	return l.consumers[structure*l.plan.Seats()+seat]
}

// Unordered says that the system does not keep the order of one proposer's
// outstanding proposals: then only losses and repetitions are errors. To be
// called before Run, by the opener.
func (l *Load) Unordered() { l.unordered = true }

// NodesReady is called by the opener between the start of the nodes and the
// creation of the structures, so that the two can be told apart. What was
// registered with OnNodesReady is called.
func (l *Load) NodesReady() {
	if l.nodesReady != nil {
		l.nodesReady()
	}
}

// OnNodesReady registers what NodesReady calls. Before the system is opened.
func (l *Load) OnNodesReady(f func()) { l.nodesReady = f }

// Continue has the lanes go on numbering after those of an earlier load on the
// same structures, whose system was closed and opened again on what it had
// stored. To be called before the system is opened again.
func (l *Load) Continue(earlier *Load) {
	l.sentBefore = make(map[uint64]uint64, len(earlier.lanes))
	for tag, n := range earlier.sentBefore {
		l.sentBefore[tag] = n
	}
	for _, ln := range earlier.lanes {
		l.sentBefore[ln.tag] = ln.sent.Load()
	}
}

// Warn counts something that the system complained about, beside proposals
// that failed. It may be called from any goroutine.
func (l *Load) Warn(err error) {
	l.warnings.Add(1)
	l.note(err)
}

func (l *Load) note(err error) { l.first.CompareAndSwap(nil, &err) }

// now is never 0, which stands for no time.
func (l *Load) now() int64 { return int64(time.Since(l.epoch)) + 1 }

// Age is the time since New.
func (l *Load) Age() time.Duration { return time.Duration(l.now()) }

// Hooks are called by Run, from its own goroutine. Any of them may be nil.
type Hooks struct {
	Start    func()                                // the window of measuring begins
	Progress func(elapsed time.Duration, n uint64) // every second of the load: operations done since it began
	End      func()                                // the window has ended
}

// drainTime is how long Run waits for what is still outstanding at the end.
const drainTime = 20 * time.Second

// Run puts the load on the system, from the beginning of the warm-up until
// what was sent has come back. Cancelling the context ends it early, with its cause.
func (l *Load) Run(ctx context.Context, sys System, hooks Hooks) error {
	if err := l.place(sys); err != nil {
		return err
	}
	began := l.now()
	l.start = began + int64(l.plan.Warmup*float64(time.Second))
	l.end = l.start + int64(l.plan.Seconds*float64(time.Second))
	for i, ln := range l.lanes {
		ln.pace(began, i, len(l.lanes))
		l.proposing.Go(func() { ln.propose(sys) })
	}
	err := l.watch(ctx, began, hooks)
	// The lanes are not waited for here: one whose system has stopped taking
	// proposals comes back only when that is closed.
	close(l.stop)
	if err != nil {
		return err
	}
	err = l.drain(ctx)
	l.left = l.unfinished()
	return err
}

// Fill puts n proposals on the system, as fast as the plan's window allows, and
// waits until all have been settled. Nothing is measured. It takes Run's place.
func (l *Load) Fill(ctx context.Context, sys System, n uint64) error {
	if err := l.place(sys); err != nil {
		return err
	}
	l.start, l.end = never, never
	l.limit = max(1, n/uint64(len(l.lanes)))
	sent := make(chan struct{})
	for _, ln := range l.lanes {
		l.proposing.Go(func() { ln.propose(sys) })
	}
	go func() { // ends with the lanes, which the closing of the system ends
		l.proposing.Wait()
		close(sent)
	}()
	defer close(l.stop)
	select {
	case <-sent:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for l.unfinished() > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-look.C:
		}
	}
	return nil
}

// never is a time that does not come.
const never = 1 << 62

// Gone says that a node was killed: what it proposed counts no more, and
// neither does that its lanes end.
func (l *Load) Gone(node int) { l.gone.Store(int64(node) + 1) }

func (l *Load) isGone(node int) bool {
	gone := l.gone.Load()
	return gone > 0 && gone == int64(node)+1
}

// place makes the lanes: the leaders are known only now. Outstanding proposals
// are dealt evenly; when there are fewer than lanes, the other structures idle.
func (l *Load) place(sys System) error {
	type seat struct{ node, structure int }
	var seats []seat
	for s := range l.plan.Structures {
		if l.plan.Proposers == AtAll {
			for n := range l.plan.Subscribed() {
				seats = append(seats, seat{n, s})
			}
			continue
		}
		node, err := l.proposerOf(sys, s)
		if err != nil {
			return err
		}
		seats = append(seats, seat{node, s})
	}
	lanes := min(len(seats), l.plan.Outstanding)
	for i := range lanes {
		window := l.plan.Outstanding / lanes
		if i < l.plan.Outstanding%lanes {
			window++
		}
		ln := newLane(l, seats[i].node, seats[i].structure, window)
		l.lanes = append(l.lanes, ln)
		l.Consumer(ln.node, ln.structure).take(ln, lanes)
	}
	return nil
}

// proposerOf is the node of a structure's one proposer.
func (l *Load) proposerOf(sys System, structure int) (int, error) {
	node, err := sys.Leader(structure)
	if err != nil {
		return 0, fmt.Errorf("leader of structure %d: %w", structure, err)
	}
	if l.plan.Proposers == AtFollower {
		// Spread over the followers.
		node = (node + 1 + structure%(l.plan.Nodes-1)) % l.plan.Nodes
	}
	if node >= l.plan.Subscribed() {
		node = structure % l.plan.Subscribed() // only subscribers propose
	}
	return node, nil
}

// watch waits for the window to begin and to end, and tells of progress.
func (l *Load) watch(ctx context.Context, began int64, hooks Hooks) error {
	begin := time.NewTimer(time.Duration(l.start - l.now()))
	defer begin.Stop()
	end := time.NewTimer(time.Duration(l.end - l.now()))
	defer end.Stop()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-begin.C:
			call(hooks.Start)
		case <-end.C:
			call(hooks.End)
			return nil
		case <-second.C:
			if hooks.Progress != nil {
				hooks.Progress(time.Duration(l.now()-began), l.done())
			}
		}
	}
}

func call(f func()) {
	if f != nil {
		f()
	}
}

// done counts what was settled since Run began.
func (l *Load) done() (n uint64) {
	for _, ln := range l.lanes {
		n += ln.done.Load() - ln.first + 1
	}
	return n
}

// drain waits for what is outstanding, so that it enters the histograms. What
// does not come back is counted by Outcome, and is no error of the run.
func (l *Load) drain(ctx context.Context) error {
	late := time.NewTimer(drainTime)
	defer late.Stop()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for l.now() < l.end || l.unfinished() > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			return nil
		case <-look.C:
		}
	}
	return nil
}

func (l *Load) unfinished() (n uint64) {
	for _, ln := range l.lanes {
		if l.isGone(ln.node) {
			continue
		}
		// In this order: done never passes a number that was not sent.
		done := ln.done.Load()
		n += ln.sent.Load() - done
	}
	return n
}

// stopped reports whether the load has ended.
func (l *Load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}
