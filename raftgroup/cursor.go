package raftgroup

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// entryReader reads committed entries of one group's log.
type entryReader interface {
	// entries returns entries lo.. up to but without hi, at least one, at
	// most about maxBytes; errCompacted if lo is not there any more.
	entries(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error)
}

// readAhead is how much of the log a delivery cursor reads at a time.
const readAhead = 1 << 20

// cursor walks the committed log for one subscription and says what to hand
// out. It carries a state of its own, so it decides what counts by itself and
// its state is exactly that of its own index: the state that a snapshot made
// there must hold.
type cursor struct {
	state *state
	mine  uint64 // session of this subscription; 0 while there is none
	asked uint64 // index of the last request handed out
	holds bool   // the consumer brought a base of its own, of more than no bytes
	ahead []*raftpb.Entry
}

// deliveryKind says what an entry means to a subscription.
type deliveryKind uint8

const (
	deliverNothing  deliveryKind = iota
	deliverPayloads              // the payloads, N = first, first+1, …
	deliverBase                  // load these bytes
	deliverMake                  // this subscription makes a snapshot here
)

// delivery is what one entry hands out. The payloads belong to the receiver.
type delivery struct {
	kind     deliveryKind
	first    uint64
	payloads [][]byte
	base     []byte
	request  request
}

// next advances over one entry at or below limit. ok is false at the limit.
func (c *cursor) next(r entryReader, limit uint64) (d delivery, ok bool, err error) {
	if c.state.index >= limit {
		return delivery{}, false, nil
	}
	if len(c.ahead) == 0 {
		c.ahead, err = r.entries(c.state.index+1, limit+1, readAhead)
		if err != nil {
			return delivery{}, false, err
		}
		if len(c.ahead) == 0 {
			return delivery{}, false, fmt.Errorf("group %s: the log has no entry %d below %d", c.state.group, c.state.index+1, limit)
		}
	}
	d, err = c.take(c.ahead[0])
	if err != nil {
		c.ahead = nil // the same place again, and afresh: it may be readable by then
		return delivery{}, false, err
	}
	c.ahead[0] = nil
	c.ahead = c.ahead[1:]
	return d, true, nil
}

// take advances over an entry, which is the next one.
func (c *cursor) take(e *raftpb.Entry) (delivery, error) {
	o, err := c.state.apply(e)
	if err != nil {
		return delivery{}, err
	}
	return c.interpret(o), nil
}

func (c *cursor) interpret(o outcome) delivery {
	switch o.kind {
	case KindBatch:
		if o.verdict == verdictCounts {
			return delivery{kind: deliverPayloads, first: o.firstN, payloads: copyPayloads(&o.batch, o.from)}
		}
	case KindBase:
		// Whoever brought the base has it already. An empty one holds nothing, and
		// is loaded only by who has something that must go.
		if o.ok && (len(o.base) > 0 || c.holds) && (o.session != c.mine || c.mine == 0) {
			return delivery{kind: deliverBase, base: o.base}
		}
	case KindSnapshotRequest:
		// A make that failed goes back over its own request, and must not meet
		// it again: with a provider that always fails that would have no end.
		// The leader asks anew.
		if o.ok && o.session == c.mine && c.mine != 0 && o.index > c.asked {
			c.asked = o.index
			return delivery{kind: deliverMake, request: *c.state.request}
		}
	}
	return delivery{}
}

// reset moves the cursor to another place: s is taken over. What was asked of
// this subscription before is not asked again.
func (c *cursor) reset(s *state) { c.state, c.ahead = s, nil }

// slab is how many payload bytes share one allocation: few allocations for
// small payloads, and a consumer that keeps one payload keeps at most that
// much alive.
const slab = 16 << 10

// copyPayloads copies out the payloads that count, since the log's bytes are
// shared and the consumer's slices are its own. Voids are left out.
func copyPayloads(b *batch, from uint64) [][]byte {
	out := make([][]byte, 0, b.count-uint32(from-b.first))
	body := b.body
	for i := uint32(0); i < uint32(from-b.first); i++ {
		body = body[b.length(i):]
	}
	for i := uint32(from - b.first); i < b.count; {
		// The next payloads lie one behind the other: as many as fit are copied
		// as one. A void one takes no room.
		end, n := i, 0
		for ; end < b.count; end++ {
			size := int(b.length(end))
			if n > 0 && n+size > slab {
				break
			}
			n += size
		}
		src := body[:n]
		body = body[n:]
		room := make([]byte, len(src)) // of no bytes it is not nil, and an empty payload is not either
		copy(room, src)
		for ; i < end; i++ {
			size := int(b.length(i))
			if !b.void(i) {
				out = append(out, room[:size:size])
			}
			room = room[size:]
		}
	}
	return out
}
