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
		o.Failed += c.failed.Load()
		o.Broken += c.broken
		if may := l.failedOf(i / l.plan.Nodes); c.missing > may {
			o.Broken += c.missing - may
			l.note(fmt.Errorf("%w: structure %d at node %d missed %d numbers, and %d proposals failed", errOrder, c.structure, c.node, c.missing, may))
		}
		if c.own.Load() == nil {
			continue
		}
		o.Ops += c.applied
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
	for node := range l.plan.Nodes {
		n += l.Consumer(node, structure).failed.Load()
	}
	return n
}
