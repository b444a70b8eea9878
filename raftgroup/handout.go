package raftgroup

import "time"

const (
	// commitBuffer bounds what lies in a commit channel in number. It lets a
	// consumer and its delivery run without a switch of goroutines for each commit.
	commitBuffer = 256
	// maxHandout bounds it in bytes. 64 commits of 64 KiB are enough for both to
	// run on; what lies there is a copy for one subscription alone, and a
	// consumer that never reads keeps it for good.
	maxHandout = 4 << 20
	// A channel does not tell that something was taken from it. So where bytes
	// are what is short, the delivery looks again, after a pause that grows from
	// firstLook (4 MiB per millisecond is more than memory gives) to lastLook
	// (ten looks a second for a consumer that does not read cost nothing).
	firstLook = time.Millisecond
	lastLook  = 100 * time.Millisecond
)

// handout knows how many bytes lie in a commit channel. The delivery is the
// channel's only sender, so what lies there is the last that was sent.
type handout struct {
	ch    chan []byte
	sizes []int // of what was sent, the oldest at first; a ring
	first int
	n     int
	bytes int
}

func newHandout(ch chan []byte) handout { return handout{ch: ch, sizes: make([]int, cap(ch))} }

// fits reports whether a commit of so many bytes may be sent: one that is
// larger than all the room goes alone.
func (h *handout) fits(size int) bool {
	h.keep(len(h.ch))
	return h.n == 0 || h.bytes+size <= maxHandout
}

// sent notes that a commit was sent.
func (h *handout) sent(size int) {
	h.keep(max(len(h.ch)-1, 0)) // without this one, which may be taken already
	h.sizes[(h.first+h.n)%len(h.sizes)] = size
	h.n++
	h.bytes += size
}

// keep forgets all but the last n.
func (h *handout) keep(n int) {
	for ; h.n > n; h.n-- {
		h.bytes -= h.sizes[h.first]
		h.first = (h.first + 1) % len(h.sizes)
	}
}
