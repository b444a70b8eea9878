package wal

import "go.etcd.io/raft/v3/raftpb"

// entryCache holds the newest entries of one group, without gaps, up to its
// last index. It is empty or ends where the log ends.
type entryCache struct {
	entries []*raftpb.Entry
	behind  uint64 // for repackCacheQueueLocked alone
}

func (c *entryCache) first() uint64 {
	if len(c.entries) == 0 {
		return 0
	}
	return c.entries[0].GetIndex()
}

func (c *entryCache) last() uint64 {
	if len(c.entries) == 0 {
		return 0
	}
	return c.entries[len(c.entries)-1].GetIndex()
}

// cacheItem is one update's entries in the order of arrival over all groups.
type cacheItem struct {
	group *group
	upto  uint64
}

// cacheLocked takes in the entries of an update and evicts the oldest
// updates of all groups until the bound holds again.
func (l *Log) cacheLocked(g *group, c *change) {
	c0 := &g.cache
	for len(c0.entries) > 0 && c0.last() >= c.first {
		n := len(c0.entries) - 1
		l.cacheBytes -= int64(entrySize(c0.entries[n]))
		c0.entries[n] = nil
		c0.entries = c0.entries[:n]
	}
	if len(c.entries) == 0 {
		l.dropCacheLocked(g, c.first)
		return
	}
	if len(c0.entries) > 0 && c0.last()+1 != c.first {
		l.dropCacheLocked(g, c.first)
	}
	for _, e := range c.entries {
		l.cacheBytes += int64(entrySize(e))
	}
	c0.entries = append(c0.entries, c.entries...)
	l.cacheQueue = append(l.cacheQueue, cacheItem{g, c0.last()})
	for l.cacheBytes > l.opts.CacheBytes && l.cacheHead < len(l.cacheQueue) {
		item := l.cacheQueue[l.cacheHead]
		l.cacheQueue[l.cacheHead] = cacheItem{}
		l.cacheHead++
		l.dropCacheLocked(item.group, item.upto+1)
	}
	l.packCacheQueueLocked()
}

// cacheSlack is how many items that describe nothing any more the queue may hold.
const cacheSlack = 4096

// packCacheQueueLocked keeps the queue about as long as what it describes: items
// at its head whose entries are gone already are skipped, and room is reused. One
// at the head may stay for good, of a group that writes nothing any more: if too
// many have come behind it since, those that describe nothing are taken out.
func (l *Log) packCacheQueueLocked() {
	for l.cacheHead < len(l.cacheQueue) {
		item := l.cacheQueue[l.cacheHead]
		if f := item.group.cache.first(); f != 0 && f <= item.upto {
			break
		}
		l.cacheQueue[l.cacheHead] = cacheItem{}
		l.cacheHead++
	}
	if l.cacheHead > 64 && l.cacheHead > len(l.cacheQueue)/2 {
		n := copy(l.cacheQueue, l.cacheQueue[l.cacheHead:])
		clear(l.cacheQueue[n:])
		l.cacheQueue, l.cacheHead = l.cacheQueue[:n], 0
	}
	if len(l.cacheQueue)-l.cacheHead > 2*l.cachePacked+cacheSlack {
		l.repackCacheQueueLocked()
	}
}

// repackCacheQueueLocked leaves one item at most for each cached entry: those
// whose entries are gone go, and those that reach as far as a later one of their
// group, which has overwritten what they brought.
func (l *Log) repackCacheQueueLocked() {
	q := l.cacheQueue[l.cacheHead:]
	for i := range q {
		q[i].group.cache.behind = 0
	}
	to := len(q)
	for i := len(q) - 1; i >= 0; i-- {
		c := &q[i].group.cache
		if f := c.first(); f == 0 || q[i].upto < f || (c.behind != 0 && q[i].upto >= c.behind) {
			continue
		}
		c.behind = q[i].upto
		to--
		q[to] = q[i]
	}
	n := copy(l.cacheQueue, q[to:])
	clear(l.cacheQueue[n:])
	l.cacheQueue, l.cacheHead, l.cachePacked = l.cacheQueue[:n], 0, n
}

// Rest forgets the cached entries of a group that nobody is about to read: they
// are read from their segments if somebody does. It does not wait for a disk.
func (l *Log) Rest(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.groups[number]; g != nil {
		l.dropCacheLocked(g, g.cache.last()+1)
	}
}

// dropCacheLocked forgets cached entries below first.
func (l *Log) dropCacheLocked(g *group, first uint64) {
	c := &g.cache
	n := 0
	for n < len(c.entries) && c.entries[n].GetIndex() < first {
		l.cacheBytes -= int64(entrySize(c.entries[n]))
		c.entries[n] = nil
		n++
	}
	if c.entries = c.entries[n:]; len(c.entries) == 0 {
		c.entries = nil
	}
}
