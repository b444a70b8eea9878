package raftgroup

// tailStep is how exactly a tail is measured.
const tailStep = 1 << 20

// tail knows which entries lie less than a number of bytes behind the apply
// cursor: a bound by number alone would keep a gigabyte of large entries. What
// was applied by an earlier process is not counted.
type tail struct {
	limit uint64
	marks []tailMark // oldest first; the first is the last one beyond the limit
	bytes uint64     // applied so far
}

// tailMark says how many bytes had been applied at an index.
type tailMark struct{ index, bytes uint64 }

// add counts an entry that was applied.
func (t *tail) add(index uint64, size int) {
	t.bytes += uint64(size)
	if n := len(t.marks); n > 0 && t.bytes-t.marks[n-1].bytes < tailStep {
		return
	}
	t.marks = append(t.marks, tailMark{index, t.bytes})
	for len(t.marks) > 1 && t.bytes-t.marks[1].bytes >= t.limit {
		t.marks = t.marks[1:]
	}
}

// begin returns an index up to which everything lies further back than the
// limit; 0 if nothing is known to.
func (t *tail) begin() uint64 {
	if len(t.marks) == 0 || t.bytes-t.marks[0].bytes < t.limit {
		return 0
	}
	return t.marks[0].index
}
