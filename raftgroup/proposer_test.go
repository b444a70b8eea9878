package raftgroup

import (
	"fmt"
	"testing"
	"time"
)

var t0 = time.Unix(1_000_000, 0)

// window is a proposer with a session and n proposals of size bytes.
func proposerWith(n, size int) *proposer {
	p := &proposer{}
	p.opened(5, t0)
	for i := range n {
		b := make([]byte, size)
		copy(b, fmt.Sprint(i))
		p.add(b, time.Time{})
	}
	return p
}

// sendOne sends the next batch and returns it decoded.
func sendOne(t testing.TB, p *proposer, maxBytes int, now time.Time) batch {
	t.Helper()
	data, n := p.next(nil, maxBytes)
	if n == 0 {
		t.Fatal("nothing to send")
	}
	p.accepted(n, now)
	b, err := decodeBatch(data)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type fates map[fate]int

func (f fates) settle(s settlement) { f[s.fate]++ }

// Fifty batches on their way behind a hole are fifty gaps and one rewind.
func TestOneAttemptOneRewind(t *testing.T) {
	t.Parallel()
	p := proposerWith(51, 8)
	var flying []batch
	for range 51 {
		flying = append(flying, sendOne(t, p, 8, t0))
	}
	rewinds := 0
	for _, b := range flying[1:] { // the first is lost
		if p.dropped(b.attempt) {
			rewinds++
		}
	}
	if rewinds != 1 || p.attempt != 1 || p.sent != 0 {
		t.Fatalf("%d rewinds, attempt %d, sent %d", rewinds, p.attempt, p.sent)
	}
	if b := sendOne(t, p, 1<<20, t0); b.first != 1 || b.count != 51 || b.attempt != 1 {
		t.Fatalf("%+v", b)
	}
	if p.dropped(0) || p.attempt != 1 {
		t.Fatal("a gap of the old attempt caused a rewind of the new one")
	}
}

// A batch of an older attempt may count while a newer one is on its way.
func TestOldAttemptCounts(t *testing.T) {
	t.Parallel()
	p, f := proposerWith(6, 8), fates{}
	old := sendOne(t, p, 1<<20, t0)
	p.rewind()
	sendOne(t, p, 16, t0)
	p.counted(&old, 1, t0, f.settle)
	if f[fateCommitted] != 6 || p.settled != 6 || p.sent != 0 || len(p.window) != 0 {
		t.Fatalf("%v, %+v", f, p)
	}
	p.add([]byte("7"), time.Time{})
	if b := sendOne(t, p, 16, t0); b.first != 7 {
		t.Fatalf("goes on at %d", b.first)
	}
}

// Half a duplicate settles only what it counts.
func TestHalfDuplicateSettlesItsRest(t *testing.T) {
	t.Parallel()
	p, f := proposerWith(4, 8), fates{}
	first := sendOne(t, p, 16, t0)
	p.rewind()
	all := sendOne(t, p, 1<<20, t0)
	p.counted(&first, 1, t0, f.settle)
	p.counted(&all, 3, t0, f.settle)
	if f[fateCommitted] != 4 || p.settled != 4 {
		t.Fatalf("%v, settled %d", f, p.settled)
	}
}

func TestTimeoutsBackOff(t *testing.T) {
	t.Parallel()
	p, now := proposerWith(1, 8), t0
	var waits []time.Duration
	for range 7 {
		sendOne(t, p, 8, now)
		sent := now
		for p.sent > 0 {
			now = now.Add(100 * time.Millisecond)
			p.tick(now)
		}
		waits = append(waits, now.Sub(sent))
	}
	want := []time.Duration{2, 4, 8, 16, 32, 32, 32}
	for i, w := range want {
		if waits[i] != w*time.Second {
			t.Fatalf("waits %v, want %v seconds", waits, want)
		}
	}
	b := sendOne(t, p, 8, now)
	p.counted(&b, 1, now, nil)
	if p.patience != minPatience {
		t.Fatal("progress did not restore the patience")
	}
}

// What is past its deadline goes as void from then on, under its number.
func TestDeadlineVoids(t *testing.T) {
	t.Parallel()
	p, f := proposerWith(0, 0), fates{}
	p.add([]byte("keeps"), time.Time{})
	p.add([]byte("expires"), t0.Add(time.Second))
	sendOne(t, p, 1<<20, t0) // lost
	p.tick(t0.Add(time.Second))
	p.tick(t0.Add(3 * time.Second))
	b := sendOne(t, p, 1<<20, t0.Add(3*time.Second))
	if b.first != 1 || b.void(0) || !b.void(1) {
		t.Fatalf("%+v", b)
	}
	p.counted(&b, 1, t0.Add(3*time.Second), f.settle)
	if f[fateCommitted] != 1 || f[fateVoided] != 1 {
		t.Fatalf("%v", f)
	}
}

// The copy with the payload came first: the log decides, not the deadline.
func TestLateButCommitted(t *testing.T) {
	t.Parallel()
	p, f := proposerWith(0, 0), fates{}
	p.add([]byte("late"), t0.Add(time.Second))
	b := sendOne(t, p, 1<<20, t0)
	p.tick(t0.Add(5 * time.Second))
	p.counted(&b, 1, t0.Add(5*time.Second), f.settle)
	if f[fateCommitted] != 1 {
		t.Fatalf("%v", f)
	}
}

// On a link that is slower than the deadlines, proposals expire at every tick
// while those before them still arrive. Sending the whole window again for
// each would make the link slower still.
func TestExpiryDoesNotFloodASlowLink(t *testing.T) {
	t.Parallel()
	const total, size = 2000, 1000
	p, f, now := proposerWith(0, 0), fates{}, t0
	for i := range total {
		p.add(make([]byte, size), t0.Add(time.Duration(i)*5*time.Millisecond))
	}
	var pipe []batch
	sent := 0
	for len(p.window) > 0 {
		if now = now.Add(100 * time.Millisecond); now.Sub(t0) > 5*time.Minute {
			t.Fatalf("%d proposals do not settle", len(p.window))
		}
		p.tick(now)
		for p.unsent() > 0 {
			b := sendOne(t, p, 10*size, now)
			sent += len(b.body)
			pipe = append(pipe, b)
		}
		if len(pipe) == 0 {
			continue
		}
		b := pipe[0] // one batch per tick comes through
		pipe = pipe[1:]
		if b.first <= p.settled+1 && b.first+uint64(b.count)-1 > p.settled {
			p.counted(&b, p.settled+1, now, f.settle)
		}
	}
	if sent > 2*total*size {
		t.Fatalf("%d bytes sent for %d bytes of proposals", sent, total*size)
	}
	t.Log(f, sent)
}

// A void number takes no room in a batch.
func TestVoidsAreSmall(t *testing.T) {
	t.Parallel()
	p := proposerWith(0, 0)
	for range 10 {
		p.add(make([]byte, 1000), t0)
	}
	p.tick(t0)
	if p.fills(1000) {
		t.Error("ten voids fill a batch")
	}
	if b := sendOne(t, p, 1000, t0); b.count != 10 || len(b.body) != 0 {
		t.Errorf("%d numbers, %d bytes", b.count, len(b.body))
	}
}

func TestBatchBounds(t *testing.T) {
	t.Parallel()
	p := proposerWith(3, 100)
	if p.fills(301) || !p.fills(300) {
		t.Error("fills is wrong about 300 bytes")
	}
	if b := sendOne(t, p, 250, t0); b.count != 2 {
		t.Errorf("%d in a batch of 250 bytes", b.count)
	}
	p.add(make([]byte, 1000), time.Time{})
	if b := sendOne(t, p, 50, t0); b.count != 1 {
		t.Errorf("%d, want the large one alone", b.count)
	}
	p = proposerWith(maxBatchCount+1, 0)
	if !p.fills(1) {
		t.Error("a full count does not fill")
	}
	if b := sendOne(t, p, 1, t0); b.count != maxBatchCount {
		t.Errorf("%d in a batch of empty proposals", b.count)
	}
	if data, n := (&proposer{}).next(nil, 1); data != nil || n != 0 {
		t.Error("a batch without a session")
	}
}

func TestEnded(t *testing.T) {
	t.Parallel()
	setup := func() *proposer {
		p := proposerWith(5, 8)
		sendOne(t, p, 24, t0) // 1..3
		return p
	}
	// The record is there: what did not count never will.
	p, f := setup(), fates{}
	p.ended(2, true, t0, f.settle)
	if f[fateCommitted] != 2 || f[fateNever] != 1 || len(p.window) != 2 || p.session != 0 {
		t.Fatalf("%v, %+v", f, p)
	}
	// What never left goes on under the next session, numbered from one.
	p.opened(9, t0)
	if b := sendOne(t, p, 1<<20, t0); b.session != 9 || b.first != 1 || b.count != 2 || b.attempt != 0 {
		t.Fatalf("%+v", b)
	}
	// A rewind does not make what was sent unsent.
	p, f = setup(), fates{}
	p.rewind()
	p.ended(0, true, t0, f.settle)
	if f[fateNever] != 3 || len(p.window) != 2 {
		t.Fatalf("%v", f)
	}
	p, f = setup(), fates{}
	p.ended(0, false, t0, f.settle)
	if f[fateUnknown] != 3 || len(p.window) != 2 {
		t.Fatalf("%v", f)
	}
	p, f = setup(), fates{}
	p.abandon(f.settle)
	if f[fateUnknown] != 3 || f[fateNever] != 2 {
		t.Fatalf("%v", f)
	}
}

func TestReconcile(t *testing.T) {
	t.Parallel()
	p, f := proposerWith(2, 8), fates{}
	p.add([]byte("void, was out"), t0.Add(time.Second))
	sendOne(t, p, 1<<20, t0)
	p.tick(t0.Add(time.Second))
	p.add([]byte("void, was not"), t0.Add(time.Second))
	p.tick(t0.Add(time.Second))
	p.rewind()
	sendOne(t, p, 1<<20, t0.Add(time.Second))
	p.add([]byte("open"), time.Time{})
	p.reconcile(4, t0.Add(time.Second), f.settle)
	if f[fateCommitted] != 2 || f[fateUnknown] != 1 || f[fateVoided] != 1 || p.settled != 4 || len(p.window) != 1 {
		t.Fatalf("%v, settled %d", f, p.settled)
	}
	p.reconcile(4, t0, f.settle) // nothing new
	if p.settled != 4 || len(p.window) != 1 {
		t.Fatal("a jump without news settled something")
	}
}

// A void is not kept waiting by the long patience that earlier time-outs left.
func TestVoidDoesNotWaitForALongPatience(t *testing.T) {
	t.Parallel()
	p := proposerWith(0, 0)
	p.patience = 16 * minPatience
	p.add([]byte("x"), t0.Add(time.Second))
	sendOne(t, p, 8, t0)
	for now := t0; p.sent > 0; now = now.Add(100 * time.Millisecond) {
		if now.Sub(t0) > minPatience+time.Second {
			t.Fatal("not proposed as void")
		}
		p.tick(now)
	}
	if b := sendOne(t, p, 8, t0.Add(3*time.Second)); !b.void(0) {
		t.Fatal("not void")
	}
}
