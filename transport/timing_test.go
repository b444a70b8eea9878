package transport

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
)

func TestBackoffGrowsAndResets(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	b := backoff{min: 20 * time.Millisecond, max: time.Second}
	if b.allow(now) != nil {
		t.Fatal("nothing has failed yet")
	}
	cause := errors.New("cause")
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 320, 500, 500} {
		b.failed(now, cause, 0)
		want *= time.Millisecond
		if err := b.allow(now.Add(want - 1)); !errors.Is(err, ErrPeerDown) || !errors.Is(err, cause) {
			t.Fatalf("failure %d: %v just before %s", i, err, want)
		}
		if err := b.allow(now.Add(want)); err != nil {
			t.Fatalf("failure %d: %v", i, err)
		}
	}
	for range 100 { // no overflow, and chance adds up to as much again
		b.failed(now, cause, 0.5)
	}
	if b.allow(now.Add(749*time.Millisecond)) == nil || b.allow(now.Add(750*time.Millisecond)) != nil {
		t.Fatal("half of the wait is random")
	}
	b.connected()
	if b.allow(now) != nil {
		t.Fatal("success ends the wait")
	}
}

func TestLiveness(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	l := newLiveness(&Config{PingInterval: time.Second, StallTimeout: 10 * time.Second, IdleTimeout: time.Minute}, start)
	var number uint64
	expect := func(s float64, busy bool, want verdict) {
		t.Helper()
		got, n := l.check(at(s), busy)
		if got != want {
			t.Fatalf("at %v: %d, want %d", s, got, want)
		}
		if got == sendPing {
			number = n
		}
	}
	expect(0, false, carryOn)
	l.use(at(1))
	expect(1, false, sendPing) // the first use is probed at once
	expect(1, false, carryOn)
	if rtt, ok := l.pong(at(1.1), number); !ok || rtt != 100*time.Millisecond {
		t.Fatalf("rtt %s, %v", rtt, ok)
	}
	if _, ok := l.pong(at(1.2), number); ok {
		t.Fatal("one ping has one pong")
	}
	l.use(at(1.5))
	expect(1.5, false, carryOn) // not more often than the interval
	expect(2, false, sendPing)
	if d := l.wait(at(4), false); d != 8*time.Second {
		t.Fatalf("wait %s for the end of the patience", d)
	}
	l.hear(at(5)) // not the pong, but bytes: the answer may stand behind them
	expect(12, false, carryOn)
	expect(15, false, giveUp)
	l.pong(at(15), number)
	expect(61, false, carryOn)
	if d := l.wait(at(61), false); d != 500*time.Millisecond {
		t.Fatalf("wait %s for idleness", d)
	}
	expect(61.5, false, shutIdle)
	expect(61.5, true, sendPing) // somebody waits for an answer: not idle at all
}

func TestNoticesAreRare(t *testing.T) {
	t.Parallel()
	var n notices
	now := time.Unix(1000, 0)
	due := func(key string, after time.Duration) bool {
		is, _ := n.due(key, now.Add(after))
		return is
	}
	if !due("a", 0) || due("a", 59*time.Second) || !due("b", 0) || !due("a", time.Minute) {
		t.Fatal("one a minute for each key")
	}
	lines := 1 // "a", in the minute that begins
	for i := range 10 * noticeKeys {
		if due(fmt.Sprint(i), time.Minute) {
			lines++
		}
	}
	if lines != noticeLines {
		t.Fatalf("%d lines in a minute", lines)
	}
	if is, leftOut := n.due("c", now.Add(2*time.Minute)); !is || leftOut != 1+10*noticeKeys-noticeLines {
		t.Fatalf("%v, %d warnings were left out", is, leftOut)
	}
	for i := range 100 {
		for j := range noticeLines {
			n.due(fmt.Sprint(i, j), now.Add(time.Duration(3+i)*time.Minute))
		}
	}
	if len(n.last) > noticeKeys {
		t.Fatalf("%d keys are kept", len(n.last))
	}
}

// A stranger who calls himself another node each time does not fill the log.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		cfg := c.config(1, newRecorder())
		cfg.Key = []byte("0123456789abcdef")
		var lines countingWriter
		cfg.Logger = slog.New(slog.NewTextHandler(&lines, nil))
		a := c.start(cfg)
		for i := range 1000 {
			me := identity{cluster: clusterID(1), node: id.Node{0: 1, 14: byte(i >> 8), 15: byte(i)}, key: []byte("fedcba9876543210")}
			conn := rawDial(t, a, network.Host("stranger"))
			if _, err := me.dialHandshake(conn, nodeID(1), purposeMessages, time.Minute); !errors.Is(err, ErrBadKey) {
				t.Fatal(err)
			}
			conn.Close()
		}
		synctest.Wait()
		if n := lines.Load(); n != 1 {
			t.Errorf("%d lines for one stranger", n)
		}
	})
}

// countingWriter counts the lines of a log.
type countingWriter struct{ atomic.Int64 }

func (w *countingWriter) Write(b []byte) (int, error) {
	w.Add(1)
	return len(b), nil
}
