package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// Woken is how long the proposals of Wake took, until they were applied at their
// proposers, in the order of the structures.
type Woken struct {
	First []time.Duration // to structures that nothing had been proposed to for a while
	Next  []time.Duration // to the same ones, right after that
}

// Wake proposes to n structures, or to all if there are fewer, spread over all of them: one after the
// other, twice to each, and never with more than one proposal outstanding. It takes Run's
// place. The error wraps ErrUnsupported if nobody can propose.
func (l *Load) Wake(ctx context.Context, sys System, n int) (Woken, error) {
	var w Woken
	l.start, l.end = never, never
	stop := sync.OnceFunc(func() { close(l.stop) })
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	n = min(n, l.plan.Structures)
	for i := range n {
		structure := i * l.plan.Structures / n
		node, err := l.proposerOf(sys, structure)
		if err != nil {
			return w, err
		}
		ln := newLane(l, node, structure, 1)
		l.lanes = append(l.lanes, ln)
		l.Consumer(ln.node, ln.structure).take(ln, manyLanes+1)
		for _, took := range []*[]time.Duration{&w.First, &w.Next} {
			d, err := ln.once(ctx, sys)
			if err != nil {
				return w, fmt.Errorf("wake structure %d at node %d: %w", ln.structure, ln.node, err)
			}
			*took = append(*took, d)
		}
	}
	return w, nil
}

// once proposes the lane's next number, and waits until it is applied.
func (ln *lane) once(ctx context.Context, sys System) (time.Duration, error) {
	seq := ln.sent.Load() + 1
	payload := make([]byte, ln.load.plan.Payload)
	copy(payload, ln.load.template)
	binary.LittleEndian.PutUint64(payload, ln.tag|seq)
	began := time.Now()
	ln.ring.put(seq, ln.load.now())
	ln.sent.Store(seq)
	if err := sys.Propose(ln.node, ln.structure, payload); err != nil {
		return 0, err
	}
	if !ln.await(seq + 1) {
		return 0, context.Cause(ctx)
	}
	took := time.Since(began)
	if ln.load.Consumer(ln.node, ln.structure).failed.Load() > 0 {
		return 0, *ln.load.first.Load() // noted before it was counted
	}
	return took, nil
}
