package placement

import (
	"bytes"
	"cmp"
	"math/bits"

	"github.com/cespare/xxhash/v2"
	"github.com/copycat-replication/copycat/id"
)

// draw is the straw of a node for a structure: exponentially distributed with
// the node's capacity as its rate. It is the fraction length / weight, kept as
// two integers, so that it compares alike on every machine.
type draw struct {
	length uint64 // -log2 of a uniform number in (0, 1], times 2^fraction
	weight uint64
}

// fraction is the number of binary digits of a draw after the point. A length
// is at most 64 << fraction, which fits 57 bits.
const fraction = 50

// domain keeps these hashes apart from those that other parts may make of the
// same IDs. It is part of what all nodes of a cluster must agree on.
var domain = [8]byte{'p', 'l', 'a', 'c', 'e', '/', 'v', '1'}

func drawOf(s id.Structure, n Node) draw {
	var b [40]byte
	copy(b[:], domain[:])
	copy(b[8:], s[:])
	copy(b[24:], n.ID[:])
	return draw{length: negLog2(xxhash.Sum64(b[:])), weight: uint64(max(n.Capacity, 1))}
}

// negLog2 returns -log2((h+1) / 2^64) times 2^fraction, rounded up. It squares
// the mantissa once for each digit: whether the square reaches 2 is the digit.
func negLog2(h uint64) uint64 {
	if h == ^uint64(0) {
		return 0 // h+1 is 2^64
	}
	h++
	exp := uint64(bits.Len64(h) - 1)
	x := h << bits.LeadingZeros64(h) // mantissa in [1, 2), its point behind the first bit
	log := exp
	for range fraction {
		hi, _ := bits.Mul64(x, x) // x squared in [1, 4), its point behind the second bit
		log <<= 1
		if hi>>63 == 1 {
			log |= 1
			x = hi
		} else {
			x = hi << 1
		}
	}
	return 64<<fraction - log
}

// compare orders draws, the better one first. l1/w1 < l2/w2 is asked as
// l1*w2 < l2*w1, in 128 bits.
func (d draw) compare(e draw) int {
	hi1, lo1 := bits.Mul64(d.length, e.weight)
	hi2, lo2 := bits.Mul64(e.length, d.weight)
	return cmp.Or(cmp.Compare(hi1, hi2), cmp.Compare(lo1, lo2))
}

// compareIDs orders nodes by their IDs.
func compareIDs(a, b id.Node) int { return bytes.Compare(a[:], b[:]) }
