package gossip

import (
	"testing"

	"pgregory.net/rapid"
)

func TestCoverageMatchesASet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var c coverage
		covered := make(map[uint64]bool)
		all := func(from, to uint64) bool {
			for n := from + 1; n <= to; n++ {
				if !covered[n] {
					return false
				}
			}
			return true
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			from := rapid.Uint64Range(0, 300).Draw(t, "from")
			to := from + rapid.Uint64Range(0, 6).Draw(t, "length")
			if got, want := c.has(from, to), all(from, to); got != want {
				t.Fatalf("has(%d, %d) = %t with %+v", from, to, got, c)
			}
			if c.add(from, to) {
				for n := from + 1; n <= to; n++ {
					covered[n] = true
				}
			}
			prefix := uint64(0)
			for covered[prefix+1] {
				prefix++
			}
			if c.prefix != prefix || len(c.spans) > maxSpans {
				t.Fatalf("prefix %d with %d spans, want %d", c.prefix, len(c.spans), prefix)
			}
			last := c.prefix
			for _, s := range c.spans {
				if s.from <= last || s.to <= s.from {
					t.Fatalf("spans overlap, touch or are empty: %+v", c)
				}
				last = s.to
			}
		}
	})
}

func TestCoverageIsBounded(t *testing.T) {
	t.Parallel()
	var c coverage
	for n := range uint64(maxSpans) {
		if !c.add(2*n+1, 2*n+2) {
			t.Fatalf("span %d refused", n)
		}
	}
	if c.add(1000, 1001) {
		t.Fatal("one span too many taken")
	}
	if !c.add(2, 3) || !c.add(0, 1) || c.prefix != 4 {
		t.Fatalf("a hole could not be filled: %+v", c)
	}
}
