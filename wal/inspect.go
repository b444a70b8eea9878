package wal

import (
	"cmp"
	"slices"
)

// SegmentInfo describes one segment, for who looks at a data directory.
type SegmentInfo struct {
	Name    string // base name
	Bytes   int64  // of the file
	End     int64  // where its batches end
	Damaged bool   // not all that was durable in it can be read
	Live    int    // entries in it that some group still needs
}

// Segments lists the segments, oldest first. The last one was started by this
// Open, if Open could.
func (l *Log) Segments() []SegmentInfo {
	l.mu.RLock()
	defer l.mu.RUnlock()
	out := make([]SegmentInfo, 0, len(l.order))
	for _, s := range l.order {
		out = append(out, SegmentInfo{Name: s.name, Bytes: s.size, End: s.end, Damaged: s.damaged, Live: s.live})
	}
	return out
}

// ColdRangeInfo is a range of a group's entries that has moved to the cold store.
type ColdRangeInfo struct {
	Group       uint64
	First, Last uint64 // indices
	Bytes       uint64
}

// ColdRanges lists what the cold store must hold, by group and index.
func (l *Log) ColdRanges() []ColdRangeInfo {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []ColdRangeInfo
	for _, g := range l.groups {
		for i := range g.chunks {
			c := &g.chunks[i]
			out = append(out, ColdRangeInfo{Group: g.number, First: c.first, Last: c.last, Bytes: c.bytes})
		}
	}
	slices.SortFunc(out, func(a, b ColdRangeInfo) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.First, b.First))
	})
	return out
}
