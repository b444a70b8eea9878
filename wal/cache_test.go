package wal

import (
	"math"
	"testing"
)

// TestCacheQueueIsBounded: one entry of a group that writes nothing any more stands
// at the head of the queue for as long as the cache has room. What others write and
// compact behind it must not stay in the queue.
func TestCacheQueueIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.SegmentSize = 1 << 20 })
	quiet, busy, brief := r.group(), r.group(), r.group()
	r.must(Update{Group: quiet, Entries: entries(quiet, 1, 1, 1, 10)})
	r.must(Update{Group: brief, Entries: entries(brief, 1, 3, 1, 10)})
	r.must(Update{Group: brief, Remove: true})
	const share = 128
	last := uint64(0)
	for range 3 * cacheSlack / share {
		var some []Update
		for range share {
			last++
			some = append(some, Update{Group: busy, Entries: entries(busy, last, last, 1, 10)})
		}
		r.must(some...)
		r.must(Update{Group: busy, Compact: &Mark{last - 5, 1}})
	}
	for term := uint64(2); term < 2*cacheSlack; term += share {
		var some []Update
		for i := range uint64(share) { // a suffix that is overwritten again and again
			some = append(some, Update{Group: busy, Entries: entries(busy, last-2, last, term+i, 10)})
		}
		r.must(some...)
	}
	r.reclaimAll()
	l := r.log
	if n := len(l.cacheQueue) - l.cacheHead; n > 2*cacheSlack {
		t.Fatalf("%d items describe %d bytes in the cache", n, l.cacheBytes)
	}
	hits := l.Stats().CacheHits
	if _, err := l.Entries(quiet, 1, 2, math.MaxUint64); err != nil || l.Stats().CacheHits != hits+1 {
		t.Fatalf("entry of the quiet group: %v", err)
	}
	// The oldest go first, still.
	l.mu.Lock()
	l.opts.CacheBytes = l.cacheBytes
	l.mu.Unlock()
	r.must(Update{Group: busy, Entries: entries(busy, last+1, last+1, 2*cacheSlack, 10)})
	if len(l.groups[quiet].cache.entries) != 0 || l.groups[busy].cache.first() != last-4 || l.cacheBytes > l.opts.CacheBytes {
		t.Fatalf("quiet group has %d entries in the cache, the busy one from %d on, %d of %d bytes",
			len(l.groups[quiet].cache.entries), l.groups[busy].cache.first(), l.cacheBytes, l.opts.CacheBytes)
	}
}

// TestRest: entries of a group that rests are read from their segment, and those
// that come later are cached again.
func TestRest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rests, other := r.group(), r.group()
	r.must(Update{Group: rests, Entries: entries(rests, 1, 3, 1, 10)}, Update{Group: other, Entries: entries(other, 1, 1, 1, 10)})
	l := r.log
	l.Rest(rests)
	l.Rest(1 << 40) // there is none
	hits := l.Stats().CacheHits
	r.check(rests, 1, 3, 1, 10)
	if now := l.Stats().CacheHits; now != hits {
		t.Errorf("%d entries of a group that rests come out of the cache", now-hits)
	}
	l.mu.RLock()
	bytes, want := l.cacheBytes, int64(entrySize(entry(other, 1, 1, 10)))
	l.mu.RUnlock()
	if bytes != want {
		t.Errorf("%d bytes are cached, want the other group's %d", bytes, want)
	}
	r.must(Update{Group: rests, Entries: entries(rests, 4, 4, 1, 10)})
	r.check(rests, 1, 4, 1, 10)
	if first := l.groups[rests].cache.first(); first != 4 {
		t.Errorf("the cache begins at %d, want 4", first)
	}
}
