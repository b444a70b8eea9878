package procrig

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/internal/history"
)

// A machine with more to do than it can leaves processes waiting for a
// processor, and no program can do anything about that. So that bounds need no
// factor for it, every process of a rig watches a clock of its own: a tick that
// comes late says from when to when nothing ran in that process. What is left
// of a pause without the time in which any process of the rig stood still is
// the cluster's own doing.

const (
	// stallTick is how often a process looks at its clock.
	stallTick = 10 * time.Millisecond
	// stallFloor is how late a tick must be to count: less than that is what
	// timers and schedulers do on a machine that is well.
	stallFloor = 10 * time.Millisecond
)

// span is from when to when, in nanoseconds of Unix time.
type span struct{ from, to int64 }

func (s span) length() time.Duration { return time.Duration(s.to - s.from) }

// watchStalls writes a line for each time in which this process stood still,
// until ctx ends.
func watchStalls(ctx context.Context, out io.Writer) error {
	tick := time.NewTicker(stallTick)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		if s, late := stallBetween(last, now); late {
			// One write for each: what a SIGKILL leaves is whole lines.
			if _, err := fmt.Fprintf(out, "%d %d\n", s.from, s.to); err != nil {
				return fmt.Errorf("write stalls: %w", err)
			}
		}
		last = now
	}
}

// stallBetween says when the process stood still, if it did, between two looks
// at the clock.
func stallBetween(last, now time.Time) (span, bool) {
	late := now.Sub(last) - stallTick // by the monotonic clock
	return span{now.Add(-late).UnixNano(), now.UnixNano()}, late > stallFloor
}

// stalls reads what all processes have written, and returns when at least one
// of them stood still: in order, and apart from one another.
func (r *Rig) stalls() ([]span, error) {
	files, err := filepath.Glob(filepath.Join(r.dir, "stalls-*"))
	if err != nil {
		return nil, err
	}
	var all []span
	for _, name := range files {
		if all, err = readStalls(name, all); err != nil {
			return nil, err
		}
	}
	return unite(all), nil
}

func readStalls(name string, into []span) (_ []span, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var s span
		if _, err := fmt.Sscan(lines.Text(), &s.from, &s.to); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", name, lines.Text(), err)
		}
		into = append(into, s)
	}
	return into, lines.Err()
}

// unite makes spans that overlap one, and sorts them.
func unite(all []span) []span {
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out []span
	for _, s := range all {
		if n := len(out); n > 0 && s.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, s.to)
			continue
		}
		out = append(out, s)
	}
	return out
}

// within is how much of a span the stalls take; they are apart from one another.
func within(s span, stalls []span) (sum time.Duration) {
	for _, x := range stalls {
		if from, to := max(s.from, x.from), min(s.to, x.to); from < to {
			sum += time.Duration(to - from)
		}
	}
	return sum
}

// pause is a time without a commit.
type pause struct {
	span
	stalled time.Duration // for so long of it a process of the rig stood still
}

// own is what the machine's stalls do not explain.
func (p pause) own() time.Duration { return p.length() - p.stalled }

// String says both.
func (p pause) String() string {
	return fmt.Sprintf("%s (%s long, in which a process stood still for %s)", p.own().Round(time.Millisecond), p.length().Round(time.Millisecond), p.stalled.Round(time.Millisecond))
}

// longestPause finds the longest time between two moments in which nobody was
// delivered a commit of the structure that nobody had been delivered before:
// what the machine's stalls explain is not counted.
func longestPause(h *history.History, structure uint16, from, to time.Time, stalls []span) pause {
	first := make(map[history.ID]int64)
	for _, l := range h.Logs {
		if l.Sub.Structure != structure {
			continue
		}
		for _, e := range l.Events {
			if at, known := first[e.ID]; e.Kind == history.KindDelivered && (!known || e.At < at) {
				first[e.ID] = e.At
			}
		}
	}
	moments := []int64{from.UnixNano(), to.UnixNano()}
	for _, at := range first {
		if at > from.UnixNano() && at < to.UnixNano() {
			moments = append(moments, at)
		}
	}
	slices.Sort(moments)
	var worst pause
	for i := range moments[1:] {
		p := pause{span: span{moments[i], moments[i+1]}}
		if p.length() > worst.own() {
			if p.stalled = within(p.span, stalls); p.own() > worst.own() {
				worst = p
			}
		}
	}
	return worst
}
