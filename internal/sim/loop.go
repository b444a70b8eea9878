package sim

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"time"
)

// loop is the one queue of events, and the clock that they move.
type loop struct {
	rng   *rand.Rand
	now   time.Time
	seq   uint64
	queue events
	trace hash.Hash64 // of what happened, to compare two runs of a seed
	steps uint64
	then  func()                              // runs after each event
	told  func(what string, values ...uint64) // for whoever looks for where two runs part; nil: nobody
}

type event struct {
	at  time.Time
	seq uint64
	run func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if !e[i].at.Equal(e[j].at) {
		return e[i].at.Before(e[j].at)
	}
	return e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	old[len(old)-1] = event{}
	*e = old[:len(old)-1]
	return last
}

func newLoop(seed, salt uint64) *loop {
	return &loop{
		rng:   rand.New(rand.NewPCG(seed, 0x5eed^salt)),
		now:   time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		trace: fnv.New64a(),
	}
}

// after has f run once d has passed.
func (l *loop) after(d time.Duration, f func()) {
	if l.told != nil {
		_, file, line, _ := runtime.Caller(1)
		_, file2, line2, _ := runtime.Caller(2)
		l.told(fmt.Sprintf("after %s:%d %s:%d", file, line, file2, line2), uint64(d))
	}
	l.seq++
	heap.Push(&l.queue, event{at: l.now.Add(max(d, 0)), seq: l.seq, run: f})
}

// runUntil runs events up to a time, or until done says so.
func (l *loop) runUntil(at time.Time, done func() bool) {
	for len(l.queue) > 0 && !l.queue[0].at.After(at) {
		e := heap.Pop(&l.queue).(event)
		l.now = e.at
		l.steps++
		l.note(uint64(e.at.UnixNano()), e.seq)
		e.run()
		if l.then != nil {
			l.then()
		}
		if done != nil && l.steps%64 == 0 && done() {
			return
		}
	}
	l.now = at
}

// note adds to the trace.
func (l *loop) note(values ...uint64) {
	if l.told != nil {
		l.told("note", values...)
	}
	var b [8]byte
	for _, v := range values {
		binary.LittleEndian.PutUint64(b[:], v)
		l.trace.Write(b[:])
	}
}

// between draws a time.
func (l *loop) between(lo, hi time.Duration) time.Duration { return between(l.rng, lo, hi) }

func between(rng *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(rng.Int64N(int64(hi-lo)+1))
}

func (l *loop) chance(p float64) bool { return l.rng.Float64() < p }
