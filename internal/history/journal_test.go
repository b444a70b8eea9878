package history

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func clockAt(sec int64) func() time.Time {
	return func() time.Time { return time.Unix(sec, 0) }
}

func genSubscriber(t *rapid.T) Subscriber {
	return Subscriber{
		Structure: uint16(rapid.IntRange(0, maxStructure).Draw(t, "structure")), Node: uint16(rapid.IntRange(0, maxNode).Draw(t, "node")),
		Process: uint32(rapid.IntRange(0, maxProcess).Draw(t, "process")), Number: uint32(rapid.IntRange(0, maxNumber).Draw(t, "number")),
	}
}

func TestNamesRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := genSubscriber(t)
		if back := s.Writer().Subscriber(); back != s {
			t.Fatalf("%v became %v", s, back)
		}
		if back, err := ParseSubscriber(s.String()); err != nil || back != s {
			t.Fatalf("%v became %v, %v", s, back, err)
		}
		id := ID{s.Writer(), rapid.Uint64Min(1).Draw(t, "seq")}
		if rapid.Bool().Draw(t, "base") {
			id.Writer |= baseMark
		}
		if back, err := ParseID(id.String()); err != nil || back != id || back.IsBase() != id.IsBase() {
			t.Fatalf("%v became %v, %v", id, back, err)
		}
	})
}

// TestPayloadCarriesItself: round trip; and no flipped bit, cut or added byte passes.
func TestPayloadCarriesItself(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := Payload{
			ID: ID{genSubscriber(t).Writer(), rapid.Uint64Min(1).Draw(t, "seq")}, Op: Op(rapid.IntRange(0, 2).Draw(t, "op")),
			Key: rapid.Uint32().Draw(t, "key"), Size: rapid.IntRange(MinPayload, 300).Draw(t, "size"),
		}
		b := p.Encode()
		if got, err := ParsePayload(b); err != nil || got != p || len(b) != p.Size {
			t.Fatalf("%+v became %+v, %v", p, got, err)
		}
		bit := rapid.IntRange(0, len(b)*8-1).Draw(t, "bit")
		b[bit/8] ^= 1 << (bit % 8)
		for _, bad := range [][]byte{b, p.Encode()[:len(b)-1], append(p.Encode(), 0), nil} {
			if _, err := ParsePayload(bad); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%x passes as a payload", bad)
			}
		}
	})
}

// TestSnapshotCarriesTheState: round trip; a flipped bit does not load, and leaves the state alone.
func TestSnapshotCarriesTheState(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := State{padding: rapid.IntRange(0, 50).Draw(t, "padding")}
		for range rapid.IntRange(1, 50).Draw(t, "n") {
			s.Apply(Payload{ID: ID{Writer(rapid.IntRange(1, 3).Draw(t, "w")), rapid.Uint64Range(1, 9).Draw(t, "seq")}, Op: OpPut, Key: rapid.Uint32Range(0, 3).Draw(t, "key")})
		}
		b := s.Snapshot()
		var got State
		if err := got.Load(b); err != nil {
			t.Fatal(err)
		}
		if f := got.Fold(); !slices.Equal(f.IDs, s.ids) || f.Digest != NewFold(s.ids).Digest {
			t.Fatalf("%v became %v", s.ids, f)
		}
		for k := range uint32(4) {
			if got.Get(k) != s.Get(k) {
				t.Fatalf("key %d: %v became %v", k, s.Get(k), got.Get(k))
			}
		}
		bit := rapid.IntRange(0, len(b)*8-1).Draw(t, "bit")
		b[bit/8] ^= 1 << (bit % 8)
		if err := got.Load(b); !errors.Is(err, ErrMalformed) || !slices.Equal(got.ids, s.ids) {
			t.Fatalf("a flipped bit loads: %v", err)
		}
		if err := got.Load(nil); err != nil || got.Len() != 0 || len(got.Snapshot()) != 0 {
			t.Fatalf("the empty snapshot is the empty state: %v", err)
		}
	})
}

func FuzzLoad(f *testing.F) {
	var s State
	s.Apply(Payload{ID: ID{1, 1}, Op: OpPut, Key: 2})
	f.Add(s.Snapshot())
	f.Fuzz(func(t *testing.T, b []byte) {
		var s State
		if err := s.Load(b); err == nil && len(b) > 0 && len(s.Snapshot()) == 0 && s.Len() > 0 {
			t.Fatal("a state without a snapshot")
		}
		_, _ = ParsePayload(b)
	})
}

// TestConcurrentRecording has proposers, consumers and the rig record at once.
func TestConcurrentRecording(t *testing.T) {
	t.Parallel()
	const n = 200
	var file bytes.Buffer // written under the recorder's lock
	for _, r := range []*Recorder{NewRecorder(clockAt(1), nil), NewRecorder(clockAt(1), &file)} {
		var wg sync.WaitGroup
		for node := range uint16(4) {
			j, err := r.Open(Subscriber{1, node, 1, 1})
			if err != nil {
				t.Fatal(err)
			}
			back := make(chan []byte, n)
			wg.Go(func() {
				for range n {
					_, b := j.Propose(OpRead, 1, 50)
					back <- b
				}
				close(back)
			})
			wg.Go(func() {
				for b := range back {
					if _, err := j.Deliver(b, 0); err != nil {
						t.Error(err)
					}
				}
			})
			wg.Go(func() { r.FaultStart("x"); r.History(); j.Len(); j.Open() })
		}
		wg.Wait()
		h := r.History()
		if r.out != nil {
			var err error
			if h, err = Read(&file); err != nil {
				t.Fatal(err)
			}
		}
		if len(h.Logs) != 4 || len(h.Nodes) != 4 {
			t.Fatalf("%d logs, %d node events", len(h.Logs), len(h.Nodes))
		}
		for _, l := range h.Logs {
			if len(l.Events) != 1+3*n {
				t.Fatalf("%s has %d events", l.Sub, len(l.Events))
			}
		}
	}
}

func TestJournalCountsWhatIsOpen(t *testing.T) {
	t.Parallel()
	r := NewRecorder(clockAt(1), nil)
	j, err := r.Open(Subscriber{1, 1, 1, 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(j.Subscriber()); !errors.Is(err, ErrMalformed) {
		t.Fatalf("opened twice: %v", err)
	}
	if _, err := r.Open(Subscriber{Node: maxNode + 1}); !errors.Is(err, ErrMalformed) {
		t.Fatalf("opened out of bounds: %v", err)
	}
	var sent [][]byte
	var ids []ID
	for range 4 {
		id, b := j.Propose(OpNone, 0, 0)
		ids, sent = append(ids, id), append(sent, b)
	}
	if _, err := j.Deliver(sent[0], 1); err != nil {
		t.Fatal(err)
	}
	if err := j.Report(sent[1], FateNever, "never"); err != nil {
		t.Fatal(err)
	}
	if err := j.Report([]byte("?"), FateNever, "never"); !errors.Is(err, ErrMalformed) {
		t.Fatal(err)
	}
	j.Withdraw(ids[2])
	if _, err := j.Deliver([]byte("?"), 2); !errors.Is(err, ErrMalformed) {
		t.Fatal(err)
	}
	if err := j.Load([]byte("?")); !errors.Is(err, ErrMalformed) {
		t.Fatal(err)
	}
	if j.Open() != 1 {
		t.Fatalf("%d open, want 1", j.Open())
	}
	s := State{}
	s.push(ids[3])
	j.Pad(100)
	if err := j.Load(s.Snapshot()); err != nil || j.Open() != 0 {
		t.Fatalf("%d open after a load that holds it: %v", j.Open(), err)
	}
	if b, err := j.Provide(); err != nil || len(b) < 100 {
		t.Fatalf("%d bytes with padding: %v", len(b), err)
	}
	if n, digest := j.Len(); n != 1 || digest != s.digest {
		t.Fatalf("holds %d items", n)
	}
	j.Close(Unsubscribed)
	j.Close(Abandoned)
	last := r.History().Logs[0].Events
	if e := last[len(last)-1]; e.Kind != KindClosed || e.Close != Unsubscribed || last[len(last)-2].Kind == KindClosed {
		t.Fatalf("the last event is %v", e)
	}
}

// TestEndOfARunIsClaimedOnlyWithAnEnd: a record that breaks off breaks no
// promise about what is missing, and says so.
func TestEndOfARunIsClaimedOnlyWithAnEnd(t *testing.T) {
	t.Parallel()
	h := correct(t, 3, nil).clone()
	h.Nodes = slices.DeleteFunc(h.Nodes, func(e Event) bool { return e.Kind == KindEnd || e.Kind == KindCalm })
	for i := range h.Logs {
		l := &h.Logs[i]
		if !slices.ContainsFunc(l.Events, func(e Event) bool { return e.Kind == KindClosed }) {
			l.Events = l.Events[:len(l.Events)*2/3]
		}
	}
	r := Check(h, checked)
	for _, v := range r.Violations {
		if v.Rule != RuleUnproposed && v.Rule != RuleSnapshot { // the cut took proposals away
			t.Errorf("%s", &v)
		}
	}
	if len(r.Skipped) != 2 {
		t.Errorf("skipped: %v", r.Skipped)
	}
}
