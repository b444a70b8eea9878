package raftgroup

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"

	"go.etcd.io/raft/v3/raftpb"
)

// readable is a log store of which only a committed log is read.
type readable struct {
	LogStore
	log *memLog
}

func (r readable) Entries(_, lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	return r.log.read(lo, hi, maxBytes)
}

// TestHandedOverInOrder applies a log bit by bit, sometimes while delivery rests
// and sometimes while it works, beside a consumer that reads or does not: what the
// step hands out and what delivery does are together what the log says, each once
// and in its order.
func TestHandedOverInOrder(t *testing.T) {
	t.Parallel()
	direct, refused := 0, 0
	seeds(t, 30, func(t *testing.T, rng *rand.Rand) {
		log := makeLog(t, rng, 400)
		var want []string
		for c := (&cursor{state: newTestState()}); c.state.index < log.last(); {
			d, _, err := c.next(reader{log: log}, log.last())
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range d.payloads {
				want = append(want, fmt.Sprintf("%q", p))
			}
			if d.kind == deliverBase {
				want = append(want, fmt.Sprintf("base %q", d.base))
			}
		}
		synctest.Test(t, func(t *testing.T) {
			s := newSubscription(nil, SubscriptionConfig{}.withDefaults())
			if rng.IntN(2) == 0 {
				s.commitCh = make(chan []byte, 2)
				s.out = newHandout(s.commitCh)
			}
			g := &Group{store: &groupStorage{log: readable{log: log}}, subs: []*Subscription{s}}
			g.status.Store(&GroupStatus{})
			s.group.Store(g)
			s.started = true
			driven := make(chan struct{})
			go func() {
				defer close(driven)
				s.drive(&deliverer{sub: s, g: g, c: cursor{state: newTestState()}})
			}()
			var got []string
			read := func() bool {
				select {
				case p := <-s.commitCh:
					if p != nil {
						got = append(got, fmt.Sprintf("%q", p))
						return true
					}
					data, err := s.Consume()
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, fmt.Sprintf("base %q", data))
					return true
				default:
					return false
				}
			}
			for at := uint64(1); at <= log.last(); {
				n := min(1+rng.Uint64N(3), log.last()+1-at)
				entries := log.entries[at-1 : at-1+n]
				if rng.IntN(3) > 0 {
					synctest.Wait() // delivery rests, if the consumer lets it
				}
				g.applied.Store(at - 1 + n)
				if handsOver(entries) && rng.IntN(2) == 0 {
					if s.handOver(g, entries) {
						direct++
					} else {
						refused++
						s.notify()
					}
				} else {
					g.tellSubscriptions(entries)
				}
				at += n
				for rng.IntN(3) > 0 && read() {
				}
			}
			for synctest.Wait(); read(); synctest.Wait() {
			}
			close(s.stop)
			<-driven
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("delivered %d: %v\nwant %d: %v", len(got), got, len(want), want)
			}
		})
	})
	if direct == 0 || refused == 0 {
		t.Errorf("handed over %d times, refused %d times", direct, refused)
	}
}

// TestHandsOver: what a step hands out itself is small, and changes alone.
func TestHandsOver(t *testing.T) {
	t.Parallel()
	entry := func(size int) *raftpb.Entry {
		data := encodeBatch(nil, 1, 1, 1, []item{{payload: make([]byte, size)}})
		return &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Data: data}
	}
	if e := entry(100); !handsOver([]*raftpb.Entry{e, e}) {
		t.Error("two small batches are not")
	}
	for name, entries := range map[string][]*raftpb.Entry{
		"nothing":      nil,
		"a large one":  {entry(maxHandover)},
		"raft's own":   {entry(1), {Type: raftpb.EntryNormal.Enum()}},
		"a membership": {entry(1), {Type: raftpb.EntryConfChangeV2.Enum(), Data: entry(1).Data}},
	} {
		if handsOver(entries) {
			t.Errorf("%s is", name)
		}
	}
}
