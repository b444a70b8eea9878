package gossip

import "slices"

// span is the sequences (from, to].
type span struct{ from, to uint64 }

// maxSpans bounds the holes that a list may have while deltas arrive out of
// order. With more, a delta is ignored and anti-entropy fills in.
const maxSpans = 64

// coverage says which sequences of a list have been applied: everything up to
// prefix, and the spans beyond it, which are sorted and neither overlap nor touch.
type coverage struct {
	prefix uint64
	spans  []span
}

// has reports whether all of (from, to] is covered.
func (c *coverage) has(from, to uint64) bool {
	if from >= to || to <= c.prefix {
		return true
	}
	from = max(from, c.prefix)
	for _, s := range c.spans {
		if s.from <= from && to <= s.to {
			return true
		}
	}
	return false
}

// add covers (from, to]. It reports false, and changes nothing, if that would
// make more than maxSpans holes.
func (c *coverage) add(from, to uint64) bool {
	if c.has(from, to) {
		return true
	}
	merged := span{from, to}
	kept := make([]span, 0, len(c.spans)+1)
	for _, s := range c.spans {
		if s.to < merged.from || merged.to < s.from {
			kept = append(kept, s)
			continue
		}
		merged = span{min(s.from, merged.from), max(s.to, merged.to)}
	}
	if merged.from <= c.prefix {
		c.prefix = max(c.prefix, merged.to)
		c.spans = kept
		return true
	}
	if len(kept) >= maxSpans {
		return false
	}
	at, _ := slices.BinarySearchFunc(kept, merged, func(a, b span) int {
		if a.from < b.from {
			return -1
		}
		return 1
	})
	c.spans = slices.Insert(kept, at, merged)
	return true
}
