package wan

import (
	"math/rand/v2"
	"time"
)

// fate is what becomes of a segment.
type fate int

const (
	passes fate = iota
	lost
	overflowed // the queue before the rate is full
	cutOff
)

// packet is on its way. due is in nanoseconds of the relay's clock.
type packet struct {
	data []byte
	to   int
	due  int64
}

// traffic counts segments.
type traffic struct {
	Segments   uint64 `json:"segments"` // that went through
	Bytes      uint64 `json:"bytes"`
	Lost       uint64 `json:"lost"`
	Overflowed uint64 `json:"overflowed"`
	CutOff     uint64 `json:"cut_off"`
}

// pipe is one direction between two data centers: what decides about a packet,
// and the packets on their way, in order. It knows no clock.
type pipe struct {
	link  Link
	room  int // of the queue
	rng   *rand.Rand
	free  int64 // when the rate lets the next bit go
	last  int64 // when the last packet is due
	queue []packet
	head  int
	count traffic
}

func newPipe(seed uint64, from, to int) *pipe {
	return &pipe{rng: rand.New(rand.NewPCG(seed, uint64(from)<<32|uint64(to)))} //nolint:gosec // chance, not secrets
}

func (p *pipe) set(link Link) { p.link, p.room = link, link.queue() }

// admit decides about a segment of that many bytes, and moves the line on.
func (p *pipe) admit(now int64, size int) fate {
	switch {
	case p.link.Cut:
		p.count.CutOff++
		return cutOff
	case p.link.Loss > 0 && p.rng.Float64() < p.link.Loss:
		p.count.Lost++
		return lost
	}
	if p.link.Rate > 0 {
		p.free = max(p.free, now)
		waiting := float64(p.free-now) * float64(p.link.Rate) / 8e9
		if int(waiting)+size > p.room {
			p.count.Overflowed++
			return overflowed
		}
		p.free += int64(float64(size) * 8e9 / float64(p.link.Rate))
	}
	p.count.Segments++
	p.count.Bytes += uint64(size)
	return passes
}

// due tells when what was admitted last arrives.
func (p *pipe) due(now int64) int64 {
	at := now
	if p.link.Rate > 0 {
		at = max(at, p.free)
	}
	at += int64(p.link.Delay)
	if p.link.Jitter > 0 {
		at += p.rng.Int64N(int64(p.link.Jitter) + 1)
	}
	p.last = max(p.last, at)
	return p.last
}

func (p *pipe) push(x packet) { p.queue = append(p.queue, x) }

// next returns when the first packet is due; false: there is none.
func (p *pipe) next() (int64, bool) {
	if p.head == len(p.queue) {
		return 0, false
	}
	return p.queue[p.head].due, true
}

func (p *pipe) pop() packet {
	x := p.queue[p.head]
	p.queue[p.head] = packet{}
	if p.head++; p.head == len(p.queue) {
		p.queue, p.head = p.queue[:0], 0
	} else if p.head > len(p.queue)/2 && p.head > 1024 {
		p.queue = p.queue[:copy(p.queue, p.queue[p.head:])]
		p.head = 0
	}
	return x
}

// lateness is what counts as a packet that came late: an error that shows in a
// commit's latency.
const lateness = time.Millisecond
