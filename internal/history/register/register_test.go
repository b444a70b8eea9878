package register

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/copycat-replication/copycat/internal/history"
)

// correct makes the history of a map workload: five subscribers, up to three
// proposals of each under way, some of them crashed or reported as unknown.
func correct(t *testing.T, seed uint64) *history.History {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	now := time.Unix(1000, 0)
	rec := history.NewRecorder(func() time.Time { return now }, nil)
	type member struct {
		j       *history.Journal
		pending [][]byte
		at      int
	}
	var subs []*member
	var order [][]byte
	process := uint32(1)
	open := func(node uint16) *member {
		j, err := rec.Open(history.Subscriber{Structure: 1, Node: node, Process: process, Number: 1})
		if err != nil {
			t.Fatal(err)
		}
		return &member{j: j}
	}
	for node := range uint16(5) {
		subs = append(subs, open(node+1))
	}
	deliver := func(m *member, n int) {
		for ; n > 0 && m.at < len(order); n-- {
			if _, err := m.j.Deliver(order[m.at], 0); err != nil {
				t.Fatal(err)
			}
			m.at++
		}
	}
	for range 2000 {
		now = now.Add(time.Millisecond)
		i := rng.IntN(len(subs))
		m := subs[i]
		switch k := rng.IntN(100); {
		case k < 30 && len(m.pending) < 3:
			_, b := m.j.Propose(history.Op(1+rng.IntN(2)), uint32(rng.IntN(5)), 40)
			m.pending = append(m.pending, b)
		case k < 60 && len(m.pending) > 0:
			order, m.pending = append(order, m.pending[0]), m.pending[1:]
		case k < 96:
			deliver(m, 10)
		case k < 98 && len(m.pending) > 0: // unknown: it counts, or not
			if err := m.j.Report(m.pending[0], history.FateUnknown, "unknown"); err != nil {
				t.Fatal(err)
			}
			if rng.IntN(2) == 0 {
				order = append(order, m.pending[0])
			}
			m.pending = m.pending[1:]
		case k == 98: // a crash: some of it counts; the next process loads a snapshot
			rec.Crash(m.j.Subscriber().Node, m.j.Subscriber().Process)
			order = append(order, m.pending[:rng.IntN(len(m.pending)+1)]...)
			process++
			subs[i] = open(m.j.Subscriber().Node)
			other := subs[(i+1)%len(subs)]
			b, err := other.j.Provide()
			if err != nil {
				t.Fatal(err)
			}
			if err := subs[i].j.Load(b); err != nil {
				t.Fatal(err)
			}
			subs[i].at = other.at
		}
	}
	for _, m := range subs {
		order = append(order, m.pending...)
	}
	for _, m := range subs {
		now = now.Add(time.Millisecond)
		deliver(m, len(order))
	}
	rec.End()
	return rec.History()
}

// orderOf checks the history first: that the order is one is not porcupine's business.
func orderOf(t *testing.T, h *history.History) []history.ID {
	t.Helper()
	r := history.Check(h, history.Options{})
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return r.Order(1)
}

const timeout = 20 * time.Second

func TestCorrectMapsPass(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		h := correct(t, seed)
		order := orderOf(t, h)
		n, err := Check(h, 1, order, timeout)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if n < 100 {
			t.Fatalf("seed %d: only %d operations", seed, n)
		}
		// The model partitions by itself, too.
		ops, err := Operations(h, 1, order)
		if err != nil || !porcupine.CheckOperations(Model(), ops) {
			t.Fatalf("seed %d: all keys at once: %v", seed, err)
		}
	}
}

// reads lists the reads with an answer.
func reads(h *history.History) []*history.Event {
	var out []*history.Event
	for i := range h.Logs {
		for k := range h.Logs[i].Events {
			if e := &h.Logs[i].Events[k]; e.Kind == history.KindRead && e.Value.Seq > 0 {
				out = append(out, e)
			}
		}
	}
	return out
}

func TestPlantedReadsAreCaught(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(h *history.History, rng *rand.Rand){
		"a read of what nobody put": func(h *history.History, rng *rand.Rand) {
			e := reads(h)[rng.IntN(len(reads(h)))]
			x := *e.Extra
			x.Value = history.ID{Writer: 1, Seq: 1 << 40}
			e.Extra = &x
		},
		"a late read that finds nothing": func(h *history.History, _ *rand.Rand) {
			all := reads(h)
			e := slices.MaxFunc(all, func(a, b *history.Event) int { return int(a.At - b.At) })
			x := *e.Extra
			x.Value = history.ID{}
			e.Extra = &x
		},
		"a late read of the oldest put of its key": func(h *history.History, _ *rand.Rand) {
			all := reads(h)
			e := slices.MaxFunc(all, func(a, b *history.Event) int { return int(a.At - b.At) })
			var first *history.Event
			for _, r := range all {
				if r.Key == e.Key && (first == nil || r.At < first.At) {
					first = r
				}
			}
			x := *e.Extra
			x.Value = first.Value
			e.Extra = &x
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(10) {
				h := correct(t, seed)
				order := orderOf(t, h)
				plant(h, rand.New(rand.NewPCG(seed, 1)))
				_, err := Check(h, 1, order, timeout)
				if !errors.Is(err, ErrNotLinearizable) || errors.Is(err, ErrUndecided) {
					t.Fatalf("seed %d: not caught: %v", seed, err)
				}
				if !strings.Contains(err.Error(), "the order has") {
					t.Fatalf("seed %d: no hint: %v", seed, err)
				}
			}
		})
	}
}

// TestOrderAgainstTime has an order that is one for everybody, but puts a
// write before one that had ended when it began: a stale read is what comes of it.
func TestOrderAgainstTime(t *testing.T) {
	t.Parallel()
	sub := func(node uint16) history.Subscriber {
		return history.Subscriber{Structure: 1, Node: node, Process: 1, Number: 1}
	}
	old, fresh := history.ID{Writer: sub(1).Writer(), Seq: 1}, history.ID{Writer: sub(2).Writer(), Seq: 1}
	read := history.ID{Writer: sub(3).Writer(), Seq: 1}
	deliveries := func(at int64) []history.Event {
		return []history.Event{
			{At: at, Kind: history.KindDelivered, ID: fresh}, {At: at, Kind: history.KindDelivered, ID: old}, {At: at, Kind: history.KindDelivered, ID: read},
		}
	}
	h := &history.History{Logs: []history.Log{
		{Sub: sub(1), Events: append([]history.Event{{At: 1, Kind: history.KindProposed, ID: old, Op: history.OpPut}, {At: 2, Kind: history.KindDelivered, ID: old}}, deliveries(30)...)},
		{Sub: sub(2), Events: append([]history.Event{{At: 5, Kind: history.KindProposed, ID: fresh, Op: history.OpPut}}, deliveries(10)...)},
		{Sub: sub(3), Events: append(append([]history.Event{{At: 15, Kind: history.KindProposed, ID: read, Op: history.OpRead}}, deliveries(20)...),
			history.Event{At: 20, Kind: history.KindRead, ID: read, Extra: &history.Extra{Value: old}})},
	}}
	h.Logs[0].Events = h.Logs[0].Events[:2]
	_, err := Check(h, 1, []history.ID{fresh, old, read}, timeout)
	if !errors.Is(err, ErrNotLinearizable) || !strings.Contains(err.Error(), "which stands before it") {
		t.Fatal(err)
	}
}

// TestUndecidedIsAFailure: a search that cannot end in time is no success.
func TestUndecidedIsAFailure(t *testing.T) {
	t.Parallel()
	h, order := &history.History{}, []history.ID(nil)
	for node := range uint16(24) {
		sub := history.Subscriber{Structure: 1, Node: node, Process: 1, Number: 1}
		l := history.Log{Sub: sub}
		for seq, op := range []history.Op{history.OpPut, history.OpRead} {
			id := history.ID{Writer: sub.Writer(), Seq: uint64(seq + 1)}
			order = append(order, id)
			l.Events = append(l.Events, history.Event{At: 1, Kind: history.KindProposed, ID: id, Op: op}, history.Event{At: 100, Kind: history.KindDelivered, ID: id})
			if op == history.OpRead { // nobody put that: every order must be tried
				l.Events = append(l.Events, history.Event{At: 100, Kind: history.KindRead, ID: id, Extra: &history.Extra{Value: history.ID{Writer: 1 << 40, Seq: 1}}})
			}
		}
		h.Logs = append(h.Logs, l)
	}
	if _, err := Check(h, 1, order, 50*time.Millisecond); !errors.Is(err, ErrUndecided) {
		t.Fatal(err)
	}
}

func TestReadWithoutItsProposal(t *testing.T) {
	t.Parallel()
	h := &history.History{Logs: []history.Log{{Sub: history.Subscriber{Structure: 1}, Events: []history.Event{{Kind: history.KindRead}}}}}
	if _, err := Check(h, 1, nil, timeout); !errors.Is(err, history.ErrMalformed) {
		t.Fatal(err)
	}
}
