package raftgroup

import (
	"math/rand/v2"
	"testing"
)

// TestTailInBytes holds the begin of a tail against all entries: it never
// gives up one that is nearer than the limit, and keeps little more.
func TestTailInBytes(t *testing.T) {
	t.Parallel()
	seeds(t, 20, func(t *testing.T, rng *rand.Rand) {
		const limit = 10 << 20
		tl := tail{limit: limit}
		var sizes []int // of entry i+1
		largest := 1 + rng.IntN(3<<20)
		for i := range 500 {
			size := rng.IntN(largest)
			sizes = append(sizes, size)
			tl.add(uint64(i+1), size)
			begin, behind := tl.begin(), 0
			for _, n := range sizes[begin:] {
				behind += n
			}
			if begin > 0 && behind < limit {
				t.Fatalf("after entry %d only %d bytes are kept", i+1, behind)
			}
			if behind > limit+2*tailStep+2*largest {
				t.Fatalf("after entry %d, %d bytes are kept", i+1, behind)
			}
			if len(tl.marks) > limit/tailStep+3 {
				t.Fatalf("%d marks", len(tl.marks))
			}
		}
	})
}
