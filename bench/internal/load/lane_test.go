package load

import (
	"bytes"
	"compress/flate"
	"testing"

	"pgregory.net/rapid"
)

// TestRing: what was put under a number is taken once, and numbers of one
// window do not get into each other's way.
func TestRing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		window := rapid.IntRange(1, 300).Draw(t, "window")
		first := rapid.Uint64Range(1, 1<<30).Draw(t, "first")
		r := newRing(window)
		if len(r.slots) < 4*window || len(r.slots)&(len(r.slots)-1) != 0 {
			t.Fatalf("%d slots for a window of %d", len(r.slots), window)
		}
		order := make([]uint64, 4*window)
		for i := range order {
			order[i] = first + uint64(i)
			if !r.free(order[i]) {
				t.Fatalf("slot of %d is not free", order[i])
			}
			r.put(order[i], int64(order[i]))
		}
		for _, seq := range rapid.Permutation(order).Draw(t, "order") {
			if r.free(seq) {
				t.Fatalf("slot of %d is free", seq)
			}
			if got := r.take(seq); got != int64(seq) {
				t.Fatalf("%d was put at %d", seq, got)
			}
			if r.take(seq) != 0 {
				t.Fatalf("%d was taken twice", seq)
			}
		}
	})
}

func TestSlabCutsApart(t *testing.T) {
	t.Parallel()
	for _, size := range []int{8, 100, 1000, 64 << 10, 1 << 20} {
		template := bytes.Repeat([]byte{7}, slabBytes(size))
		s := slab{template: template, size: size}
		a, b := s.next(), s.next()
		if len(a) != size || cap(a) != size || len(b) != size {
			t.Fatalf("size %d: %d of %d, %d", size, len(a), cap(a), len(b))
		}
		clear(a)
		if b[0] != 7 || s.next()[0] != 7 || template[0] != 7 {
			t.Errorf("size %d: payloads share bytes", size)
		}
	}
}

// TestRoom: a full window waits for a step of room, and for a straggler whose slot comes round again.
func TestRoom(t *testing.T) {
	t.Parallel()
	ln := newLane(New(testPlan()), 0, 0, 32)
	if ln.step != 2 {
		t.Fatalf("step %d", ln.step)
	}
	if !ln.room(32, 1) || ln.room(33, 1) {
		t.Error("the window is not 32")
	}
	ln.complete()
	if !ln.room(33, 1) || ln.room(33, ln.step) {
		t.Error("one settled proposal makes room for one, and not for a step")
	}
	ln.ring.put(1, 99)
	ln.done.Store(1000)
	if ln.room(1+uint64(len(ln.ring.slots)), 1) {
		t.Error("a slot that is taken is given again")
	}
}

// BenchmarkHarness is the harness's own cost of one operation: it proposes to
// a system that applies at once, on the same goroutine.
func BenchmarkHarness(b *testing.B) {
	p := Plan{Nodes: 1, Structures: 1, Payload: 128, Outstanding: 4096, Proposers: AtLeader, Seconds: 3600}
	l := New(p)
	l.end = 1 << 62
	ln := newLane(l, 0, 0, p.Outstanding)
	c := l.Consumer(0, 0)
	c.take(ln, 1)
	b.ReportAllocs()
	ln.propose(&direct{c: c, left: b.N})
}

type direct struct {
	c    *Consumer
	left int
}

func (d *direct) Leader(int) (int, error) { return 0, nil }
func (d *direct) Close() error            { return nil }

func (d *direct) Propose(_, _ int, p []byte) error {
	d.c.Applied(p)
	if d.left--; d.left == 0 {
		return errDone
	}
	return nil
}

var errDone = errorString("done")

type errorString string

func (e errorString) Error() string { return string(e) }

// TestTemplate: payloads of words can be compressed, the others cannot.
func TestTemplate(t *testing.T) {
	t.Parallel()
	for _, words := range []bool{false, true} {
		data := template(Plan{Payload: 1024, Words: words})
		var small bytes.Buffer
		w, err := flate.NewWriter(&small, flate.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if half := small.Len() < len(data)/2; half != words {
			t.Errorf("words %v: %d bytes of %d are left", words, small.Len(), len(data))
		}
	}
}
