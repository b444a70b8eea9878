package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Consumer is the data structure of one node: for each proposer of the
// structure, the last number applied. Applied, Snapshot and Restore are called
// by one goroutine at a time; Failed and Settled may be called from any.
type Consumer struct {
	load      *Load
	seat      int
	node      int // whose proposals it receives; -1 at a seat that only looks on
	structure int
	base      uint64   // number of the lane of node 0
	last      []uint64 // by node: last number applied
	count     []uint64 // by node: how many were applied, of a system without order
	// own is nil while nothing is proposed here. It is set when the load
	// begins; a snapshot may come before that.
	own atomic.Pointer[lane]

	hist    *hdrhistogram.Histogram
	slices  []uint64 // operations applied, by second of the window
	applied uint64   // in the window
	slowest int64
	at      int64      // when the last of its own was applied
	began   int64      // when the first was
	gap     int64      // the longest time without one, in the window
	settled bool       // by Settled, not by Applied
	settle  sync.Mutex // for Settled
	broken  uint64     // numbers that were repeated, out of order or foreign
	missing uint64     // numbers that were passed over; those of failed proposals may be

	failed atomic.Uint64
}

// errOrder says that a consumer saw what a replicated log must not show.
var errOrder = errors.New("order is broken")

// Latencies are recorded in nanoseconds, from half a microsecond to a minute.
const (
	lowestLatency  = 1000
	highestLatency = int64(time.Minute)
	// manyLanes is from where on the histograms have two digits instead of
	// three: 10,000 of them are to fit into memory.
	manyLanes = 128
	// maxState bounds a snapshot: it is one slice of bytes.
	maxState = 8 << 30
)

func newHistogram(lanes int) *hdrhistogram.Histogram {
	digits := 3
	if lanes > manyLanes {
		digits = 2
	}
	return hdrhistogram.New(lowestLatency, highestLatency, digits)
}

func newConsumer(l *Load, seat, structure int) *Consumer {
	node := seat
	if seat >= l.plan.Nodes {
		node = -1
	}
	return &Consumer{
		load: l, seat: seat, node: node, structure: structure,
		base: laneTag(l.plan, 0, structure) >> sequenceBits, last: make([]uint64, l.plan.Nodes),
	}
}

// take makes the consumer the receiving end of a lane.
func (c *Consumer) take(ln *lane, lanes int) {
	c.hist = newHistogram(lanes)
	c.slices = make([]uint64, int(math.Ceil(c.load.plan.Seconds)))
	c.own.Store(ln)
}

// Applied takes the next commit of the structure at this node. It does not
// keep the payload.
func (c *Consumer) Applied(payload []byte) {
	if len(payload) < HeaderBytes {
		c.breach(0, 0)
		return
	}
	header := binary.LittleEndian.Uint64(payload)
	node, seq := header>>sequenceBits-c.base, header&sequenceMask
	if node >= uint64(len(c.last)) || len(payload) != c.load.plan.Payload {
		c.breach(node, seq)
		return
	}
	switch last := c.last[node]; {
	case c.load.unordered:
		if c.count == nil {
			c.count = make([]uint64, len(c.last))
		}
		c.count[node]++
	case seq <= last:
		c.breach(node, seq)
	case seq > last+1:
		c.missing += seq - last - 1
	}
	c.last[node] = max(c.last[node], seq)
	if int(node) == c.node && !c.settled {
		c.record(seq)
	}
}

// SettledElsewhere says that what this node proposes is settled by Settled
// alone: for systems that answer a proposer before, or without, handing it what
// was applied. To be called before the load begins.
func (c *Consumer) SettledElsewhere() { c.settled = true }

// Settled takes the system's word that a proposal of this node is committed,
// and applied at this node.
func (c *Consumer) Settled(payload []byte) {
	c.settle.Lock()
	defer c.settle.Unlock()
	c.record(binary.LittleEndian.Uint64(payload) & sequenceMask)
}

func (c *Consumer) breach(node, seq uint64) {
	c.broken++
	var last uint64
	if node < uint64(len(c.last)) {
		last = c.last[node]
	}
	c.load.note(fmt.Errorf("%w: structure %d at seat %d applied number %d of node %d after %d", errOrder, c.structure, c.seat, seq, node, last))
}

// record settles a number of this node's own lane.
func (c *Consumer) record(seq uint64) {
	own := c.own.Load()
	if own == nil {
		if seq > c.load.sentBefore[c.tag()] {
			c.breach(uint64(c.node), seq)
		}
		return // of an earlier load
	}
	if seq < own.first {
		return
	}
	sent := own.ring.take(seq)
	if sent == 0 {
		return // a repetition, which was counted above, or a failure that was not one
	}
	now := c.load.now()
	if now >= c.load.start && now < c.load.end {
		c.applied++
		c.slices[(now-c.load.start)/int64(time.Second)]++
		c.gap = max(c.gap, now-max(c.at, c.load.start))
	}
	if c.began == 0 {
		c.began = now
	}
	c.at = now
	if sent >= c.load.start {
		latency := now - sent
		c.slowest = max(c.slowest, latency)
		_ = c.hist.RecordValue(min(latency, highestLatency)) // in range, so it cannot fail
	}
	own.complete()
}

func (c *Consumer) tag() uint64 { return laneTag(c.load.plan, c.node, c.structure) }

// silence is the longest time in the window without an own proposal that was
// applied, up to the window's end.
func (c *Consumer) silence() time.Duration {
	last := max(c.at, c.load.start)
	return time.Duration(max(c.gap, c.load.end-min(last, c.load.end)))
}

// Failed settles a proposal of this node that will not be applied.
func (c *Consumer) Failed(payload []byte, err error) {
	if !c.load.isGone(c.node) {
		c.load.note(err)
	}
	c.failed.Add(1)
	if own := c.own.Load(); own != nil && len(payload) >= HeaderBytes {
		own.fail(binary.LittleEndian.Uint64(payload) & sequenceMask)
	}
}

// Snapshot serializes the state, for systems that ask for it. Before anything
// was applied it is small: what a structure begins with may be bounded.
func (c *Consumer) Snapshot() []byte {
	size := int64(8 * len(c.last))
	if slices.Max(c.last) > 0 {
		size = max(size, c.load.plan.State)
	}
	b := make([]byte, 0, size)
	for _, n := range c.last {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	for len(b) < cap(b) {
		b = append(b, c.load.template[:min(len(c.load.template), cap(b)-len(b))]...)
	}
	return b
}

// Restore replaces the state by a snapshot. What the snapshot holds of this
// node's own proposals has been applied by it.
func (c *Consumer) Restore(b []byte) error {
	if n := int64(8 * len(c.last)); int64(len(b)) != n && int64(len(b)) != max(n, c.load.plan.State) {
		return fmt.Errorf("snapshot of structure %d has %d bytes, not those of %d nodes and %d of state", c.structure, len(b), len(c.last), c.load.plan.State)
	}
	for n := range c.last {
		from := c.last[n]
		c.last[n] = binary.LittleEndian.Uint64(b[8*n:])
		if n == c.node && c.own.Load() != nil {
			for seq := max(from+1, c.own.Load().first); seq <= c.last[n]; seq++ {
				c.record(seq)
			}
		}
	}
	return nil
}
