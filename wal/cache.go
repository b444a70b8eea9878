package wal

import "go.etcd.io/raft/v3/raftpb"

// entryCache holds the newest entries of one group, without gaps, up to its
// last index. It is empty or ends where the log ends.
type entryCache struct {
	entries []*raftpb.Entry
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

// packCacheQueueLocked keeps the queue as long as what it describes: items at
// its head whose entries are gone already are skipped, and room is reused.
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
