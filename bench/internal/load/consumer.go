package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Consumer is the data structure of one node: for each proposer of the
// structure, the last number applied. Applied, Snapshot and Restore are called
// by one goroutine at a time; Failed may be called from any.
type Consumer struct {
	load      *Load
	node      int
	structure int
	base      uint64   // number of the lane of node 0
	last      []uint64 // by node: last number applied
	// own is nil while nothing is proposed here. It is set when the load
	// begins; a snapshot may come before that.
	own atomic.Pointer[lane]

	hist    *hdrhistogram.Histogram
	slices  []uint64 // operations applied, by second of the window
	applied uint64   // in the window
	slowest int64
	broken  uint64 // numbers that were repeated, out of order or foreign
	missing uint64 // numbers that were passed over; those of failed proposals may be

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
)

func newHistogram(lanes int) *hdrhistogram.Histogram {
	digits := 3
	if lanes > manyLanes {
		digits = 2
	}
	return hdrhistogram.New(lowestLatency, highestLatency, digits)
}

func newConsumer(l *Load, node, structure int) *Consumer {
	return &Consumer{
		load: l, node: node, structure: structure,
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
	case seq <= last:
		c.breach(node, seq)
	case seq > last+1:
		c.missing += seq - last - 1
	}
	c.last[node] = max(c.last[node], seq)
	if int(node) == c.node {
		c.record(seq)
	}
}

func (c *Consumer) breach(node, seq uint64) {
	c.broken++
	var last uint64
	if node < uint64(len(c.last)) {
		last = c.last[node]
	}
	c.load.note(fmt.Errorf("%w: structure %d at node %d applied number %d of node %d after %d", errOrder, c.structure, c.node, seq, node, last))
}

// record settles a number of this node's own lane.
func (c *Consumer) record(seq uint64) {
	own := c.own.Load()
	if own == nil {
		c.breach(uint64(c.node), seq)
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
	}
	if sent >= c.load.start {
		latency := now - sent
		c.slowest = max(c.slowest, latency)
		_ = c.hist.RecordValue(min(latency, highestLatency)) // in range, so it cannot fail
	}
	own.complete()
}

// Failed settles a proposal of this node that will not be applied.
func (c *Consumer) Failed(payload []byte, err error) {
	c.failed.Add(1)
	c.load.note(err)
	if own := c.own.Load(); own != nil && len(payload) >= HeaderBytes {
		own.fail(binary.LittleEndian.Uint64(payload) & sequenceMask)
	}
}

// Snapshot serializes the state, for systems that ask for it.
func (c *Consumer) Snapshot() []byte {
	b := make([]byte, 0, 8*len(c.last))
	for _, n := range c.last {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

// Restore replaces the state by a snapshot. What the snapshot holds of this
// node's own proposals has been applied by it.
func (c *Consumer) Restore(b []byte) error {
	if len(b) != 8*len(c.last) {
		return fmt.Errorf("snapshot of structure %d has %d bytes, not %d", c.structure, len(b), 8*len(c.last))
	}
	for n := range c.last {
		from := c.last[n]
		c.last[n] = binary.LittleEndian.Uint64(b[8*n:])
		if n == c.node && c.own.Load() != nil {
			for seq := from + 1; seq <= c.last[n]; seq++ {
				c.record(seq)
			}
		}
	}
	return nil
}
