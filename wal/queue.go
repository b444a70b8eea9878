package wal

import "sync"

// submission is one call of Submit: it is answered when all its updates are.
type submission struct {
	seq  uint64
	left int
	err  error
	done func(error)
}

// queued is one update that waits.
type queued struct {
	sub    *submission
	update *Update
	size   int
}

// judged reports whether the update is judged by what is durable, so that it
// must come first of its group in a batch.
func (i queued) judged() bool {
	return i.update != nil && (i.update.Compact != nil || i.update.Remove)
}

// groupQueue holds the waiting updates of one group, in order.
type groupQueue struct {
	group uint64
	items []queued
	head  int
}

// queue holds what was submitted and is in no batch yet. Groups take turns.
type queue struct {
	mu     sync.Mutex
	groups map[uint64]*groupQueue
	ring   []*groupQueue // the groups that have something, next one first
	spare  []*groupQueue
	bytes  int64
	count  int
	seq    uint64
	closed bool
}

// add queues the updates; it reports false if the queue is closed.
func (q *queue) add(updates []Update, done func(error)) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.seq++
	sub := &submission{seq: q.seq, left: len(updates), done: done}
	if len(updates) == 0 {
		// Answered in its turn, like any other: it rides on no group.
		sub.left = 1
		q.push(queued{sub: sub})
		return true
	}
	for i := range updates {
		q.push(queued{sub: sub, update: &updates[i], size: updateSize(&updates[i])})
	}
	return true
}

func (q *queue) push(item queued) {
	number := uint64(0)
	if item.update != nil {
		number = item.update.Group
	}
	g := q.groups[number]
	if g == nil {
		if n := len(q.spare); n > 0 {
			g, q.spare = q.spare[n-1], q.spare[:n-1]
		} else {
			g = &groupQueue{}
		}
		g.group = number
		q.groups[number] = g
		q.ring = append(q.ring, g)
	}
	g.items = append(g.items, item)
	q.bytes += int64(item.size)
	q.count++
}

// collect takes one batch: every group in turn gets up to quota bytes (one
// update at least), until limit bytes are together. Groups that did not come
// to their turn are first next time; those that have more left are last. An
// update that compacts or removes starts its group's share, because it is
// judged by what is durable.
func (q *queue) collect(dst []queued, quota, limit int) (batch []queued, size int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	turns, kept, full := 0, len(q.ring), false
	for turns < kept && !full {
		g := q.ring[turns]
		share := 0
		for g.head < len(g.items) {
			item := g.items[g.head]
			if full = len(dst) > 0 && size+item.size > limit; full {
				break
			}
			if share > 0 && (share+item.size > quota || item.judged()) {
				break
			}
			dst = append(dst, item)
			share += max(item.size, 1)
			size += item.size
			g.items[g.head] = queued{}
			g.head++
			q.count--
		}
		if share == 0 {
			break // no room for anything of this group: it stays first
		}
		turns++
		if g.head < len(g.items) {
			if g.head > len(g.items)/2 {
				n := copy(g.items, g.items[g.head:])
				clear(g.items[n:])
				g.items, g.head = g.items[:n], 0
			}
			q.ring = append(q.ring, g)
			continue
		}
		delete(q.groups, g.group)
		g.items, g.head = g.items[:0], 0
		if len(q.spare) < 1024 && cap(g.items) <= 64 {
			q.spare = append(q.spare, g)
		}
	}
	n := copy(q.ring, q.ring[turns:])
	clear(q.ring[n:])
	q.ring = q.ring[:n]
	q.bytes -= int64(size)
	return dst, size
}

// close refuses what comes later; it reports false if it was closed already.
func (q *queue) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	was := q.closed
	q.closed = true
	return !was
}

func (q *queue) load() (updates int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count, q.bytes
}
