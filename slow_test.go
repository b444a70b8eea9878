package copycat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
)

// TestConsumerThatNeverReads lets far more go by a consumer that never reads
// than may be kept for it: another subscription of the same structure gets all
// of it, and memory stays bounded. It does not run beside other tests, since
// it looks at the heap.
func TestConsumerThatNeverReads(t *testing.T) {
	cfg := testConfig(t, "")
	cfg.SnapshotBytes, cfg.SnapshotEntries = 1<<40, 1<<40
	cc := start(t, cfg)
	provider := func() ([]byte, error) { return nil, nil }
	stalled, stalledCommits, _, _, err := cc.SubscribeToDataStructureWithStringID(sampleID, provider)
	if err != nil {
		t.Fatal(err)
	}
	propose, commits, _, _, err := cc.SubscribeToDataStructureWithStringID(sampleID, provider)
	if err != nil {
		t.Fatal(err)
	}
	const n, size = 3000, 64 << 10
	before := heapInUse()
	go func() {
		for i := range n {
			p := make([]byte, size)
			binary.BigEndian.PutUint64(p, uint64(i))
			to := propose
			if i%10 == 0 {
				to = stalled // who does not read may still propose
			}
			to <- p
		}
	}()
	for i := range n {
		if p := <-commits; len(p) != size {
			t.Fatalf("commit %d has %d bytes", i, len(p))
		}
	}
	// The stalled channel, the cache of the log, the windows of two
	// subscriptions, and what is read ahead.
	limit := cap(stalledCommits)*size + 32<<20 + 2*32<<20 + 16<<20
	grown := heapInUse() - before
	t.Logf("%d MiB went by, the heap grew by %d MiB", n*size>>20, grown>>20)
	if grown > limit {
		t.Errorf("the heap grew by %d bytes, want at most %d", grown, limit)
	}
	// What it missed is all there.
	last := [2]int{-1, -1}
	for i := range n {
		p := <-stalledCommits
		k := int(binary.BigEndian.Uint64(p))
		from := 0
		if k%10 == 0 {
			from = 1
		}
		if k <= last[from] {
			t.Fatalf("commit %d is proposal %d, after %d", i, k, last[from])
		}
		last[from] = k
	}
}

// TestErrorsNobodyReads fills the error channel with errors about proposals:
// then the propose channel blocks. When they are read, none is missing.
func TestErrorsNobodyReads(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	cfg.MaxProposalBytes, cfg.WindowBytes = 100, 64<<10
	cc := start(t, cfg)
	propose, commits, errs, consume, err := cc.SubscribeToDataStructureWithStringID(sampleID, func() ([]byte, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	const n = 2000
	var sent atomic.Int64
	go func() {
		for i := range n {
			p := make([]byte, 200)
			copy(p, fmt.Sprint(i, "!"))
			propose <- p
			sent.Add(1)
		}
		close(propose)
	}()
	waitStatus(t, cc, "a full propose channel", func(Status) bool { return len(propose) == cap(propose) })
	most := int64(cap(propose)+cap(errs)) + cfg.WindowBytes/200 + 2
	if got := sent.Load(); got > most {
		t.Errorf("%d proposals were taken with nobody reading errors, want at most %d", got, most)
	}
	i := 0
	for err := range errs {
		var pe *ProposalError
		if !errors.As(err, &pe) || !errors.Is(err, ErrProposalTooLarge) || len(pe.Proposal) != 200 {
			t.Fatalf("error %d is %v", i, err)
		}
		if want := fmt.Sprint(i, "!"); string(pe.Proposal[:len(want)]) != want {
			t.Fatalf("error %d is about %q", i, pe.Proposal[:len(want)])
		}
		i++
	}
	if i != n {
		t.Errorf("%d errors, want %d", i, n)
	}
	drain(commits, nil, consume)
}
