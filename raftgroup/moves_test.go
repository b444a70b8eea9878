package raftgroup

import (
	"testing"
	"time"
)

// TestTokens: a burst at once, then so many a second, and never more after a pause.
func TestTokens(t *testing.T) {
	t.Parallel()
	var b tokens
	now := time.Unix(1000, 0)
	take := func() (n int) {
		for b.take(now) {
			n++
		}
		return n
	}
	if got := take(); got != moveBurst {
		t.Fatalf("%d at once, want %d", got, moveBurst)
	}
	now = now.Add(time.Second)
	if got := take(); got != moveRefill {
		t.Fatalf("%d after a second, want %d", got, moveRefill)
	}
	now = now.Add(-time.Hour) // a group's step may be behind another's
	if got := take(); got != 0 {
		t.Fatalf("%d by a clock that is behind", got)
	}
	now = now.Add(3 * time.Hour)
	if got := take(); got != moveBurst {
		t.Fatalf("%d after a pause, want %d", got, moveBurst)
	}
}

// TestPacer: bytes take the time that the rate allows, but for the burst of a tenth of a second.
func TestPacer(t *testing.T) {
	t.Parallel()
	p := pacer{rate: 1 << 20}
	begin := time.Unix(1000, 0)
	now := begin
	for range 10 << 5 { // ten seconds' worth
		now = now.Add(p.reserve(now, 32<<10))
	}
	if took := now.Sub(begin); took < 9800*time.Millisecond || took > 10*time.Second {
		t.Fatalf("10 MiB at 1 MiB/s took %s", took)
	}
	now = now.Add(time.Hour)
	if wait := p.reserve(now, 100<<10); wait != 0 {
		t.Fatalf("waits %s after a pause", wait)
	}
	if wait := p.reserve(now, 1); wait > 20*time.Millisecond {
		t.Fatalf("waits %s behind a tenth of a second's worth", wait)
	}
}
