package gossip

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// memberlist's own lines come out of the logger that was given, at sane levels.
func TestLogLevels(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"[DEBUG] memberlist: a b\n":                       "DEBUG a b",
		"[INFO] memberlist: Suspect x has failed\n":       "INFO Suspect x has failed",
		"[WARN] memberlist: a\n":                          "WARN a",
		"[ERR] memberlist: Failed to send gossip to x\n":  "WARN Failed to send gossip to x",
		"[ERROR] memberlist: a\n":                         "WARN a",
		"Err: Could not set the deadline\n":               "INFO Err: Could not set the deadline",
		"[WARN] memberlist: ignoring alive message for x": "DEBUG ignoring alive message for x",
		"[odd": "INFO [odd",
		"[WARN] memberlist: " + strings.Repeat("y", 10000): "WARN " + strings.Repeat("y", 493),
	} {
		var out bytes.Buffer
		a := &logAdapter{logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey || a.Key == "from" {
					return slog.Attr{}
				}
				return a
			}}))}
		if n, err := a.Write([]byte(line)); n != len(line) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
		level, msg, _ := strings.Cut(want, " ")
		if unquoted, err := strconv.Unquote(`"` + msg + `"`); err == nil {
			msg = unquoted
		}
		if got := out.String(); !strings.Contains(got, "level="+level) || !strings.Contains(got, msg) || len(got) > 600 {
			t.Errorf("%.40q gave %q, want %.80q", line, got, want)
		}
		a.quiet.Store(true)
		out.Reset()
		_, _ = a.Write([]byte(line))
		if !strings.Contains(out.String(), "level=DEBUG") {
			t.Errorf("not quiet: %q", out.String())
		}
	}
}

// What a peer with another key, or a stranger, sends to the port does not fill
// the log, and other things are still told.
func TestRubbishDoesNotFillTheLog(t *testing.T) {
	t.Parallel()
	var out syncBuffer
	c := testConfig(0)
	c.Key = []byte("0123456789abcdef")
	c.Logger = slog.New(slog.NewTextHandler(&out, nil))
	g := start(t, c)
	conn, err := net.Dial("udp", addressOf(g))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	leftOut := func() int {
		g.adapter.mu.Lock()
		defer g.adapter.mu.Unlock()
		return g.adapter.leftOut
	}
	for deadline := time.Now().Add(patience); leftOut() < 500; {
		if time.Now().After(deadline) {
			t.Fatalf("%d lines were left out", leftOut())
		}
		for i := range 50 {
			_, _ = conn.Write(fmt.Appendf([]byte{244, 7, 'c', 'o', 'p', 'y', 'c', 'a', 't'}, "not encrypted with that key: %d", i))
		}
		time.Sleep(time.Millisecond)
	}
	if n := strings.Count(out.String(), "Decrypt packet failed"); n != logLines {
		t.Errorf("%d lines of one kind", n)
	}
	if _, err := g.adapter.Write([]byte("[INFO] memberlist: Suspect x has failed\n")); err != nil {
		t.Fatal(err)
	}
	if said := out.String(); !strings.Contains(said, "Suspect x") || !strings.Contains(said, "lines_left_out=") {
		t.Errorf("nothing else is told any more, or not what was left out: %.2000s", said)
	}
}

// A minute later there is room again; lines without end do not take memory.
func TestLogLinesAreBounded(t *testing.T) {
	t.Parallel()
	var a logAdapter
	now := time.Unix(1000, 0)
	due := func(text string, after time.Duration) bool {
		is, _ := a.due(beginning(text), now.Add(after))
		return is
	}
	for i := range 2 * logLines {
		if got, want := due(fmt.Sprintf("Suspect %d has failed", i), 0), i < logLines; got != want {
			t.Fatalf("line %d: %v", i, got)
		}
	}
	if is, leftOut := a.due("Suspect", now.Add(logEvery)); !is || leftOut != logLines {
		t.Fatalf("a minute later: %v, %d left out", is, leftOut)
	}
	for i := range 10 * logKinds {
		due(strings.Repeat("x", 1+i%30)+strings.Repeat("y", 1+i/30), logEvery)
	}
	if len(a.lines) > logKinds {
		t.Errorf("%d kinds of lines are counted", len(a.lines))
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
