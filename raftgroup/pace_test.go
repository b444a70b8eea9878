package raftgroup

import (
	"testing"
	"time"
)

func TestStretch(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, c := range []struct {
		rtt  time.Duration
		want int
	}{{0, 1}, {ms, 1}, {200 * ms, 1}, {201 * ms, 2}, {300 * ms, 2}, {600 * ms, 3}, {900 * ms, 5}, {time.Minute, 5}} {
		if got := stretchFor(c.rtt, time.Second); got != c.want {
			t.Errorf("%v: %d, want %d", c.rtt, got, c.want)
		}
	}
	p := pace{}
	if n := p.ticks(3); n != 3 {
		t.Errorf("without a stretch 3 ticks are %d", n)
	}
	p.stretch = 3
	total := 0
	for range 10 {
		total += p.ticks(1)
	}
	if total += p.ticks(2); total != 4 {
		t.Errorf("12 ticks are %d of raft's, want 4", total)
	}
}
