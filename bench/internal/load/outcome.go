package load

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Outcome is what a run brought. All counts but Failed, Broken, Warnings and
// Unfinished are of the window of measuring.
type Outcome struct {
	Ops       uint64
	PerSecond []uint64                // operations in each second
	Latency   *hdrhistogram.Histogram // in nanoseconds
	Slowest   time.Duration           // exact, where the histogram is not
	First     time.Duration           // from New until the first own proposal was applied somewhere
	Silence   time.Duration           // the longest time that some proposer had nothing applied

	Failed     uint64 // proposals that the system gave up
	Broken     uint64 // commits that were missing, repeated or out of order at some node
	Warnings   uint64 // other complaints of the system
	Unfinished uint64 // proposals that never came back
	FirstError error
}

// Errors is the number of things that must not happen.
func (o *Outcome) Errors() uint64 { return o.Failed + o.Broken + o.Unfinished }

// Outcome adds up the consumers. Call it after the system was closed: they
// have no locks.
func (l *Load) Outcome() Outcome {
	l.proposing.Wait()
	o := Outcome{Warnings: l.warnings.Load(), Unfinished: l.left, Latency: newHistogram(len(l.lanes))}
	for i, c := range l.consumers {
		if !l.isGone(c.node) {
			o.Failed += c.failed.Load()
		}
		o.Broken += c.broken
		missing := c.missing
		if l.unordered {
			missing = c.lost()
		}
		if may := l.failedOf(i / l.plan.Seats()); missing > may {
			o.Broken += missing - may
			l.note(fmt.Errorf("%w: structure %d at seat %d missed %d numbers, and %d proposals failed", errOrder, c.structure, c.seat, missing, may))
		}
		if c.own.Load() == nil {
			continue
		}
		o.Ops += c.applied
		if first := time.Duration(c.began); first > 0 && (o.First == 0 || first < o.First) {
			o.First = first
		}
		if !l.isGone(c.node) {
			o.Silence = max(o.Silence, c.silence())
		}
		o.Slowest = max(o.Slowest, time.Duration(c.slowest))
		o.Latency.Merge(c.hist)
		if o.PerSecond == nil {
			o.PerSecond = make([]uint64, len(c.slices))
		}
		for i, n := range c.slices {
			o.PerSecond[i] += n
		}
	}
	if err := l.first.Load(); err != nil {
		o.FirstError = *err
	}
	return o
}

// failedOf is how many proposals of a structure failed, on all nodes.
func (l *Load) failedOf(structure int) (n uint64) {
	for seat := range l.plan.Subscribed() {
		n += l.Consumer(seat, structure).failed.Load()
	}
	return n
}

// lost is what a system without order lacks: numbers below the greatest that
// were never applied. Repetitions make up for losses, and are breaches of their
// own.
func (c *Consumer) lost() (n uint64) {
	for node, last := range c.last {
		if c.count == nil {
			return 0
		}
		if count := c.count[node]; count < last {
			n += last - count
		} else if count > last {
			c.broken += count - last
		}
	}
	return n
}
