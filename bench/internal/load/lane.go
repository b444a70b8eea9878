package load

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	sequenceBits = 40 // of the header; the lane's number has the other 24
	sequenceMask = 1<<sequenceBits - 1
	// maxWakeStep bounds how much room a lane waits for once its window is full.
	maxWakeStep = 64
)

// lane is one proposer. Only its goroutine sends; done is counted by the
// consumer, and by whoever reports failures.
type lane struct {
	load            *Load
	node, structure int
	tag             uint64 // its number, where the header has it
	window, step    uint64
	first           uint64 // number
	begin, interval int64  // when the first is due, and the time to the next; 0: at once
	ring            ring

	sent    atomic.Uint64
	done    atomic.Uint64
	waiting atomic.Bool
	wake    chan struct{} // cap 1
}

func newLane(l *Load, node, structure, window int) *lane {
	ln := &lane{
		load: l, node: node, structure: structure, tag: laneTag(l.plan, node, structure),
		window: uint64(window), step: uint64(max(1, min(window/16, maxWakeStep))),
		ring: newRing(window), wake: make(chan struct{}, 1),
	}
	before := l.sentBefore[ln.tag]
	ln.first = before + 1
	ln.sent.Store(before)
	ln.done.Store(before)
	return ln
}

func laneTag(p Plan, node, structure int) uint64 {
	return uint64(structure*p.Nodes+node) << sequenceBits
}

// pace gives the lane, the i-th of n, its share of the plan's rate, between those of
// the others.
func (ln *lane) pace(began int64, i, n int) {
	if rate := ln.load.plan.Rate; rate > 0 {
		each := 1e9 / rate
		ln.begin, ln.interval = began+int64(each*float64(i)), max(1, int64(each*float64(n)))
	}
}

// due waits until a number is due, and returns when that was; false: the load ends.
func (ln *lane) due(seq uint64, timer *time.Timer) (at int64, ok bool) {
	now := ln.load.now()
	if ln.interval == 0 {
		return now, true
	}
	at = ln.begin + int64(seq-ln.first)*ln.interval
	if at <= now || at >= ln.load.end {
		return at, true
	}
	timer.Reset(time.Duration(at - now))
	select {
	case <-timer.C:
		return at, true
	case <-ln.load.stop:
		return 0, false
	}
}

// propose keeps the window full, or the rate, until the measuring ends.
func (ln *lane) propose(sys System) {
	cut := slab{template: ln.load.template, size: ln.load.plan.Payload}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for seq := ln.first; ln.await(seq); seq++ {
		now, ok := ln.due(seq, timer)
		if !ok || now >= ln.load.end || (ln.load.limit > 0 && seq-ln.first >= ln.load.limit) {
			return
		}
		payload := cut.next()
		binary.LittleEndian.PutUint64(payload, ln.tag|seq)
		ln.ring.put(seq, now)
		ln.sent.Store(seq)
		if err := sys.Propose(ln.node, ln.structure, payload); err != nil {
			ln.fail(seq)
			if !ln.load.stopped() && !ln.load.isGone(ln.node) {
				ln.load.Warn(fmt.Errorf("lane at node %d, structure %d, ended: %w", ln.node, ln.structure, err))
			}
			return
		}
	}
}

// await waits until the number may be sent; false: the load ends.
func (ln *lane) await(seq uint64) bool {
	if ln.room(seq, 1) {
		return true
	}
	for {
		ln.waiting.Store(true)
		if ln.room(seq, ln.step) {
			ln.waiting.Store(false)
			return true
		}
		select {
		case <-ln.wake:
		case <-ln.load.stop:
			return false
		}
	}
}

// room reports whether n numbers from seq on fit into the window. The ring is
// larger than the window: a slot that is still taken belongs to a proposal that
// younger ones have overtaken by far, and it must come back first.
func (ln *lane) room(seq, n uint64) bool {
	return seq+n-1-ln.done.Load() <= ln.window && ln.ring.free(seq)
}

// complete notes that an outstanding proposal is settled.
func (ln *lane) complete() {
	ln.done.Add(1)
	if ln.waiting.Load() && ln.waiting.CompareAndSwap(true, false) {
		select {
		case ln.wake <- struct{}{}:
		default:
		}
	}
}

// fail settles a proposal that will not come back.
func (ln *lane) fail(seq uint64) bool {
	if ln.ring.take(seq) == 0 {
		return false
	}
	ln.complete()
	return true
}

// ring holds the times of sending of what is outstanding; 0 is a free slot.
type ring struct {
	slots []atomic.Int64
	mask  uint64
}

// newRing has room for four windows, so that a system which does not keep a
// proposer's order does not stop at the first straggler.
func newRing(window int) ring {
	n := uint64(1) << bits.Len64(uint64(4*window-1))
	return ring{slots: make([]atomic.Int64, n), mask: n - 1}
}

func (r *ring) free(seq uint64) bool       { return r.slots[seq&r.mask].Load() == 0 }
func (r *ring) put(seq uint64, at int64)   { r.slots[seq&r.mask].Store(at) }
func (r *ring) take(seq uint64) (at int64) { return r.slots[seq&r.mask].Swap(0) }

// slab cuts payloads out of large copies of one part of the template after the
// other: one allocation for many payloads, none of which can grow into its
// neighbour.
type slab struct {
	template []byte
	at       int // where the next part begins
	size     int
	rest     []byte
}

// templateBytes is how much goes by before a payload comes again: more than
// what a compressor looks at together.
const templateBytes = 4 << 20

func slabBytes(payload int) int { return payload * max(1, (64<<10)/payload) }

func (s *slab) next() []byte {
	if len(s.rest) < s.size {
		n := slabBytes(s.size)
		if s.at+n > len(s.template) {
			s.at = 0
		}
		s.rest = append([]byte(nil), s.template[s.at:s.at+n]...)
		s.at += n
	}
	p := s.rest[:s.size:s.size]
	s.rest = s.rest[s.size:]
	return p
}
