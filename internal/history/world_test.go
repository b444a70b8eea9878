package history

import (
	"io"
	"math/rand/v2"
	"testing"
	"time"
)

const bound = 10 * time.Second

// world makes correct histories: a pretended cluster whose total order is a
// list that it appends to.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	now   time.Time
	rec   *Recorder
	order []Payload // commits
	base  []ID
	subs  []*member
	// orphans are proposals of crashed processes that may yet commit.
	orphans [][]Payload
	process map[uint16]uint32
	number  uint32
	stored  []int // how many commits each stored snapshot holds
}

type member struct {
	j       *Journal
	at      int // commits applied
	pending []Payload
}

// correct makes the history of a seed, with two structures.
func correct(t *testing.T, seed uint64, out io.Writer) *History {
	t.Helper()
	now := time.Unix(1_000_000, 0)
	rec := NewRecorder(func() time.Time { return now }, out)
	worlds := make([]*world, 2)
	for i := range worlds {
		w := &world{t: t, rng: rand.New(rand.NewPCG(seed, uint64(i))), now: now, rec: rec, process: make(map[uint16]uint32)}
		worlds[i] = w
		w.begin(uint16(i + 1))
	}
	tick := func(w *world) {
		now = now.Add(time.Duration(w.rng.IntN(20)) * time.Millisecond)
	}
	rec.FaultStart("a link is cut")
	for range 250 {
		for _, w := range worlds {
			tick(w)
			w.step()
		}
	}
	rec.FaultStop("a link is cut")
	now = now.Add(time.Second)
	rec.Calm()
	for range 10 {
		for _, w := range worlds {
			for _, m := range w.subs {
				tick(w)
				w.propose(m)
			}
			for _, m := range w.subs {
				w.commit(m, len(m.pending))
			}
			for _, m := range w.subs {
				tick(w)
				w.deliver(m, len(w.order))
			}
		}
	}
	now = now.Add(2 * bound)
	rec.End()
	if err := rec.Err(); err != nil {
		t.Fatal(err)
	}
	return rec.History()
}

// begin opens the first subscribers; two of them bring a base.
func (w *world) begin(structure uint16) {
	for node := uint16(1); node <= 4; node++ {
		// Nodes of two structures are apart: a crash takes down one's only.
		w.start(structure, node+10*structure)
	}
	bases := w.rng.IntN(3)
	for i, m := range w.subs[:2] {
		if bases > 0 {
			m.j.Base(1 + i + bases)
		}
		if _, err := m.j.Provide(); err != nil {
			w.t.Fatal(err)
		}
	}
	if bases == 0 {
		return
	}
	w.base = w.subs[0].j.state.Fold().IDs
	for _, m := range w.subs[1:] {
		w.load(m, 0)
	}
}

func (w *world) start(structure, node uint16) *member {
	if w.process[node] == 0 {
		w.process[node] = 1
		w.rec.Start(node, 1)
	}
	w.number++
	j, err := w.rec.Open(Subscriber{structure, node, w.process[node], w.number})
	if err != nil {
		w.t.Fatal(err)
	}
	m := &member{j: j}
	w.subs = append(w.subs, m)
	return m
}

// snapshot serializes the state after n commits.
func (w *world) snapshot(n int) []byte {
	var s State
	for _, id := range w.base {
		s.push(id)
	}
	for _, p := range w.order[:n] {
		s.Apply(p)
	}
	return s.Snapshot()
}

func (w *world) load(m *member, n int) {
	if err := m.j.Load(w.snapshot(n)); err != nil {
		w.t.Fatal(err)
	}
	m.at = n
}

func (w *world) propose(m *member) {
	op := Op(w.rng.IntN(3))
	_, b := m.j.Propose(op, uint32(w.rng.IntN(4)), w.rng.IntN(100))
	p, err := ParsePayload(b)
	if err != nil {
		w.t.Fatal(err)
	}
	m.pending = append(m.pending, p)
}

func (w *world) commit(m *member, n int) {
	n = min(n, len(m.pending))
	w.order = append(w.order, m.pending[:n]...)
	m.pending = m.pending[n:]
}

func (w *world) deliver(m *member, n int) {
	for range min(n, len(w.order)-m.at) {
		p := w.order[m.at]
		m.at++
		number := uint64(0)
		if w.rng.IntN(2) == 0 {
			number = uint64(m.at)
		}
		if _, err := m.j.Deliver(p.Encode(), number); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) report(m *member) {
	if len(m.pending) == 0 {
		return
	}
	i := w.rng.IntN(len(m.pending))
	p, fate := m.pending[i], FateNever+Fate(w.rng.IntN(4))
	m.pending = append(m.pending[:i:i], m.pending[i+1:]...)
	if fate == FateRefused {
		m.j.Withdraw(p.ID)
	} else if err := m.j.Report(p.Encode(), fate, "given up"); err != nil {
		w.t.Fatal(err)
	}
	if fate == FateUnknown && i == 0 && w.rng.IntN(2) == 0 {
		w.order = append(w.order, p)
	}
}

func (w *world) crash(i int) {
	m := w.subs[i]
	sub := m.j.Subscriber()
	if w.rng.IntN(4) == 0 {
		w.rec.Wipe(sub.Node, sub.Process)
	} else {
		w.rec.Crash(sub.Node, sub.Process)
	}
	w.orphans = append(w.orphans, m.pending)
	w.subs = append(w.subs[:i:i], w.subs[i+1:]...)
	w.process[sub.Node]++
	w.rec.Start(sub.Node, w.process[sub.Node])
	n := 0
	if len(w.stored) > 0 {
		n = w.stored[w.rng.IntN(len(w.stored))]
	}
	if again := w.start(sub.Structure, sub.Node); n > 0 || len(w.base) > 0 {
		w.load(again, n)
	}
}

func (w *world) unsubscribe(i int) {
	m := w.subs[i]
	w.commit(m, len(m.pending))
	if w.rng.IntN(4) == 0 {
		w.deliver(m, w.rng.IntN(3))
		m.j.Close(CutShort)
	} else {
		w.deliver(m, len(w.order))
		m.j.Close(Unsubscribed)
	}
	sub := m.j.Subscriber()
	w.subs = append(w.subs[:i:i], w.subs[i+1:]...)
	if again := w.start(sub.Structure, sub.Node); len(w.base) > 0 {
		w.load(again, 0)
	}
}

func (w *world) step() {
	i := w.rng.IntN(len(w.subs))
	m := w.subs[i]
	switch k := w.rng.IntN(100); {
	case k < 35:
		w.propose(m)
	case k < 55:
		w.commit(m, 1+w.rng.IntN(3))
	case k < 85:
		w.deliver(m, 1+w.rng.IntN(6))
	case k < 89:
		w.report(m)
	case k < 92 && m.at > 0:
		b, err := m.j.Provide()
		if err != nil {
			w.t.Fatal(err)
		}
		sub := m.j.Subscriber()
		w.rec.Stored(sub.Structure, sub.Node, uint64(m.at), b)
		w.load(m, m.at)
		w.stored = append(w.stored, m.at)
	case k < 95 && len(w.stored) > 0:
		w.load(m, w.stored[w.rng.IntN(len(w.stored))]) // forwards, or back after a provider's failure
	case k < 97:
		w.crash(i)
	case k < 98:
		w.unsubscribe(i)
	case len(w.orphans) > 0:
		o := w.orphans[0]
		w.orphans = w.orphans[1:]
		w.order = append(w.order, o[:w.rng.IntN(len(o)+1)]...)
	}
}

var checked = Options{Bound: bound}

func TestCorrectHistoriesPass(t *testing.T) {
	t.Parallel()
	var total Stats
	for seed := range uint64(100) {
		r := Check(correct(t, seed, nil), checked)
		if err := r.Err(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(r.Skipped) > 0 {
			t.Fatalf("seed %d: skipped %v", seed, r.Skipped)
		}
		s := r.Stats
		total.Proposals += s.Proposals
		total.Delivered += s.Delivered
		total.Loads += s.Loads
		total.Stored += s.Stored
		total.Crashes += s.Crashes
		total.AfterCalm += s.AfterCalm
		total.Commits += s.Commits
		if s.Survivors < 8 || s.AfterCalm < 80 {
			t.Fatalf("seed %d: %+v", seed, s)
		}
	}
	if total.Loads < 300 || total.Stored < 300 || total.Crashes < 300 {
		t.Fatalf("the histories hold too little: %+v", total)
	}
	t.Logf("%+v", total)
}
