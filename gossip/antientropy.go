package gossip

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/copycat-replication/copycat/id"
)

// Requests are repeated at the same pace at first, since an answer fails to come
// for as long as the others do not know the asker yet; then ever more rarely,
// since nobody may have what is wanted any more.
const (
	eagerAsks   = 4
	maxAskShift = 3
)

// patience is how long to wait for the answer to the latest request.
func (h *hosted) patience(retry int64) int64 {
	return retry << min(max(h.asks, eagerAsks)-eagerAsks, maxAskShift)
}

// setAlive says that a node is a live member, in the given incarnation. A node
// is unknown to the directory until then: updates about strangers are ignored,
// or else the lists of nodes long gone would travel from node to node for ever.
func (d *directory) setAlive(node id.Node, incarnation uint64, now int64) error {
	h := d.nodes[node]
	if h == d.own {
		return nil
	}
	if h == nil {
		if len(d.nodes) >= d.limits.nodes {
			return fmt.Errorf("%w: %d nodes", ErrTooMany, len(d.nodes))
		}
		h = &hosted{node: node}
		d.nodes[node] = h
	}
	if !h.alive || h.incarnation != incarnation {
		// It may have published while we did not hear it: ask once.
		h.answered, h.asks, h.askedAt = false, 0, 0
	}
	if h.incarnation != incarnation {
		h.incarnation, h.restartedAt = incarnation, now
	}
	h.alive, h.lostAt = true, 0
	return nil
}

// setDead says that a node is no live member any more, for whatever reason.
func (d *directory) setDead(node id.Node, now int64) {
	if h := d.nodes[node]; h != nil && h != d.own && h.alive {
		h.alive, h.lostAt = false, now
	}
}

// expire drops what nobody confirms any more: the lists of nodes that have been
// dead or left for keep, whatever was heard about them since, and the lists of
// older incarnations and generations keep after a newer one was seen. It
// returns the nodes that it forgot.
func (d *directory) expire(now, keep int64) (forgotten []id.Node, changed bool) {
	for node, h := range d.nodes {
		if h == d.own {
			continue
		}
		if !h.alive && now-h.lostAt >= keep {
			d.dropPrevious(h)
			d.unindex(h, h.current)
			delete(d.nodes, node)
			forgotten = append(forgotten, node)
			changed = true
			continue
		}
		if h.previous != nil && now-h.replacedAt >= keep {
			d.dropPrevious(h)
			changed = true
		}
		if l := h.current; l != nil && h.alive && l.incarnation < h.incarnation && now-h.restartedAt >= keep {
			d.dropPrevious(h)
			d.unindex(h, l)
			h.current = nil
			changed = true
		}
	}
	slices.SortFunc(forgotten, compareNodes)
	return forgotten, changed
}

func compareNodes(a, b id.Node) int { return bytes.Compare(a[:], b[:]) }

// maxDeltaChanges is how many changes are broadcast; of more, only the new head
// is, and everyone fetches the rest over a stream. A broadcast costs its bytes
// some eight times per node, and packets have little room: memberlist sends 15 of
// 1,400 bytes a second. So what does not fit about one packet travels faster, and
// takes less, once per node over streams: when 20 nodes take over 1,500 replicas
// at once, 1 s and 55 KiB per node, against 4.5 s and 135 KiB with 128 changes here.
const maxDeltaChanges = 16

// announce returns what to broadcast after publish returned (from, to] and whole.
func (d *directory) announce(from, to uint64, whole bool) []update {
	l := d.own.current
	if whole || to-from > maxDeltaChanges {
		return []update{{node: d.self, epoch: l.epoch, from: to, to: to, head: to}}
	}
	var updates []update
	for from < to {
		u, _ := l.collect(d.self, from, maxDeltaBytes-messageOverhead)
		updates = append(updates, u)
		from = u.to
	}
	return updates
}

// vector returns how far every known list reaches, by node; lists of which
// nothing is known are left out.
func (d *directory) vector() []version {
	vector := make([]version, 0, len(d.nodes))
	for _, h := range d.nodes {
		if v := h.version(); v.sequence > 0 {
			vector = append(vector, v)
		}
	}
	slices.SortFunc(vector, func(a, b version) int { return compareNodes(a.node, b.node) })
	return vector
}

// compare takes in the vector of another node: it notes where that node is
// ahead of us, which behind and wants then know. stranger reports that the
// vector holds a version of our own list that we never published: two processes
// use our node ID, or our incarnation went backwards.
func (d *directory) compare(from id.Node, vector []version, now int64) (stranger bool) {
	owner := d.nodes[from]
	for _, v := range vector {
		h := d.nodes[v.node]
		switch {
		case h == nil:
			continue
		case h == d.own:
			c := v.epoch.compare(h.current.epoch)
			stranger = stranger || c > 0 || c == 0 && v.sequence > h.current.head
			continue
		}
		if h.current == nil || v.epoch.compare(h.current.epoch) > 0 {
			d.advance(h, v.epoch, now)
		}
		if v.epoch == h.current.epoch && v.sequence > h.current.head {
			h.current.head = v.sequence
			h.asks, h.askedAt, h.holeAt = 0, 0, 0
			h.teller = from
		}
		if v.epoch == h.current.epoch && v.sequence > h.current.cover.prefix {
			// It has what we lack, and it has just spoken with us.
			h.asks, h.teller = 0, from
		}
	}
	if owner != nil && owner != d.own {
		owner.answered = true // it has said how far its own list reaches
	}
	return stranger
}

// want is one request: what the receiver is to be asked for.
type want struct {
	from  id.Node
	since []version
}

// wants returns the requests that are due, at most limit of them, one per
// receiver. A list is asked of its owner if that is alive and of whoever told
// of it in turn, again after retry, and ever more rarely while nothing comes.
// What deltas may still bring by themselves is asked for after settle.
func (d *directory) wants(now, retry, settle int64, limit int) []want {
	byTarget := make(map[id.Node][]version)
	for _, h := range d.nodes {
		switch {
		case !h.behind(),
			h.askedAt != 0 && now-h.askedAt < h.patience(retry),
			h.holeAt != 0 && now-h.holeAt < settle && (!h.alive || h.answered):
			continue
		}
		target, ok := d.target(h)
		if !ok {
			continue
		}
		if _, open := byTarget[target]; !open && len(byTarget) >= limit {
			continue
		}
		h.askedAt = max(now, 1)
		h.asks++
		byTarget[target] = append(byTarget[target], h.version())
	}
	requests := make([]want, 0, len(byTarget))
	for target, since := range byTarget {
		slices.SortFunc(since, func(a, b version) int { return compareNodes(a.node, b.node) })
		requests = append(requests, want{target, since})
	}
	slices.SortFunc(requests, func(a, b want) int { return compareNodes(a.from, b.from) })
	return requests
}

// target picks whom to ask for a list.
func (d *directory) target(h *hosted) (id.Node, bool) {
	teller := d.nodes[h.teller]
	told := teller != nil && teller != d.own && teller.alive
	// A node that knows nothing yet has just joined: the one that told it knows
	// it for sure, the owner perhaps not yet.
	tellerFirst := h.current != nil && h.current.cover.prefix == 0
	switch {
	case told && (!h.alive || (h.asks%2 == 0) == tellerFirst):
		return h.teller, true
	case h.alive:
		return h.node, true
	}
	return id.Node{}, false
}

// pages answers a request: what we have beyond since, in updates of about
// pageBytes, at most budget bytes of it. more says that the budget ended it.
func (d *directory) pages(since []version, pageBytes, budget int) (updates []update, more bool) {
	for _, v := range since {
		h := d.nodes[v.node]
		if h == nil || h.current == nil {
			continue
		}
		l := h.current
		from := v.sequence
		switch c := v.epoch.compare(l.epoch); {
		case c > 0:
			continue // the asker knows of a newer list than we do
		case c < 0:
			from = 0
		}
		for from < l.cover.prefix {
			if budget <= 0 {
				return updates, true
			}
			u, _ := l.collect(v.node, from, min(pageBytes, budget))
			updates = append(updates, u)
			budget -= u.size()
			from = u.to
		}
	}
	return updates, false
}

// answeredBy notes that a node has answered a request to its end, so that the
// next one, for what is still missing where it helped, need not wait.
func (d *directory) answeredBy(from id.Node, updates []update) {
	for i := range updates {
		if h := d.nodes[updates[i].node]; h != nil && h.asks == 0 {
			h.askedAt = 0
		}
	}
	if h := d.nodes[from]; h != nil && h != d.own {
		h.answered = true
	}
}
