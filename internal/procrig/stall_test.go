package procrig

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/history"
)

// TestWatchStalls: a process that runs writes nothing; a tick that comes late by
// a second is a second of standing still.
func TestWatchStalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var out bytes.Buffer
		ended := make(chan error, 1)
		go func() { ended <- watchStalls(ctx, &out) }()
		time.Sleep(time.Minute)
		cancel()
		if err := <-ended; err != nil || out.Len() > 0 {
			t.Fatalf("a process that ran all the time: %v, %q", err, out.String())
		}
	})
	last := time.Unix(100, 0)
	if s, late := stallBetween(last, last.Add(stallTick+stallFloor)); late {
		t.Errorf("late by %s, and counted", s.length())
	}
	now := last.Add(stallTick + time.Second)
	if s, late := stallBetween(last, now); !late || s.length() != time.Second || s.to != now.UnixNano() {
		t.Errorf("late by a second: %v, %+v", late, s)
	}
}

// TestPauses holds the measure of pauses against a history made by hand.
func TestPauses(t *testing.T) {
	t.Parallel()
	at := func(s float64) int64 { return int64(s * 1e9) }
	deliver := func(node uint16, moments ...float64) history.Log {
		l := history.Log{Sub: history.Subscriber{Structure: 1, Node: node, Process: 1, Number: 1}}
		for i, m := range moments {
			l.Events = append(l.Events, history.Event{At: at(m), Kind: history.KindDelivered, ID: history.ID{Writer: 7, Seq: uint64(i + 1)}})
		}
		return l
	}
	// The second one is always later than the first, who sees nothing for five
	// seconds after the second commit.
	h := &history.History{Logs: []history.Log{deliver(1, 1, 2, 7, 8, 11), deliver(2, 1.5, 5, 7.5, 8.5)}}
	other := deliver(3, 3, 4)
	other.Sub.Structure = 2
	h.Logs = append(h.Logs, other)
	stalls := unite([]span{{at(3), at(4)}, {at(3.5), at(6)}, {at(9), at(9.5)}, {at(20), at(21)}})
	if want := []span{{at(3), at(6)}, {at(9), at(9.5)}, {at(20), at(21)}}; !slices.Equal(stalls, want) {
		t.Fatalf("united: %v, want %v", stalls, want)
	}
	for _, c := range []struct {
		name     string
		from, to float64
		stalls   []span
		want     pause
	}{
		{"no stall", 1, 11, nil, pause{span{at(2), at(7)}, 0}},
		{"five seconds, of which three are the machine's, against three of which half a one is", 1, 11, stalls, pause{span{at(8), at(11)}, 500 * time.Millisecond}},
		{"the beginning counts", 0, 3, nil, pause{span{at(0), at(1)}, 0}},
		{"the end counts", 8, 10, stalls, pause{span{at(8), at(10)}, 500 * time.Millisecond}},
		{"nothing at all", 12, 22, stalls, pause{span{at(12), at(22)}, time.Second}},
	} {
		if got := longestPause(h, 1, time.Unix(0, at(c.from)), time.Unix(0, at(c.to)), c.stalls); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}
