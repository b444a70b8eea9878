package copycat

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"sync/atomic"
	"testing"
	"time"
)

var passing = flag.Int("passing", 256, "how many MiB TestConsumerThatNeverReads lets go by")

// fold is a data structure that depends on every commit and its place.
type fold struct{ count, digest uint64 }

func (f *fold) apply(p []byte) {
	h := fnv.New64a()
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, f.digest)) // a hash does not fail
	_, _ = h.Write(p[:8])
	f.count, f.digest = f.count+1, h.Sum64()
}

func (f *fold) provide() ([]byte, error) {
	if f.count == 0 {
		return nil, nil
	}
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, f.count), f.digest), nil
}

func (f *fold) load(t testing.TB, consume SnapshotConsumer) {
	t.Helper()
	data, err := consume()
	if err != nil || len(data) != 16 {
		t.Fatalf("consume: %d bytes, %v", len(data), err)
	}
	f.count, f.digest = binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[8:])
}

// What the heap may grow by while commits of neverReadSize have gone by a
// consumer that never reads, when all has been read by another one: 4 MiB in
// the commit channel, one commit and 1 MiB of log read ahead; the log's cache
// of 32 MiB; and the last round, which raft and the log's queue and writer may
// each hold, more than once. A channel that was bounded by number would hold 256 MiB.
const (
	neverReadSize  = 1 << 20
	neverReadRound = 16
	neverReadLimit = 4<<20 + neverReadSize + 1<<20 + 32<<20 + 8*neverReadRound*neverReadSize
)

// TestConsumerThatNeverReads lets far more go by a consumer that never reads
// than may be kept for it: another subscription of the same structure gets all
// of it, and memory stays bounded. When it reads after all, it ends up with the
// same. It does not run beside other tests, since it looks at the heap.
func TestConsumerThatNeverReads(t *testing.T) {
	cfg := testConfig(t, "")
	cfg.SnapshotBytes = 16 << 20
	cc := start(t, cfg)
	var all, late fold
	stalled, stalledCommits, stalledErrs, stalledConsume, err := cc.SubscribeToDataStructureWithStringID(sampleID, late.provide)
	if err != nil {
		t.Fatal(err)
	}
	propose, commits, errs, consume, err := cc.SubscribeToDataStructureWithStringID(sampleID, all.provide)
	if err != nil {
		t.Fatal(err)
	}
	n := max(*passing<<20/neverReadSize, 64)
	before, most := heapInUse(), 0
	began := time.Now()
	for all.count < uint64(n) {
		for i := range neverReadRound {
			p := make([]byte, neverReadSize)
			binary.BigEndian.PutUint64(p, all.count+uint64(i))
			to := propose
			if i%10 == 0 {
				to = stalled // who does not read may still propose
			}
			to <- p
		}
		for until := all.count + neverReadRound; all.count < until; {
			p := <-commits
			switch {
			case p == nil:
				all.load(t, consume)
			case len(p) != neverReadSize:
				t.Fatalf("commit %d has %d bytes", all.count, len(p))
			default:
				all.apply(p)
			}
		}
		most = max(most, heapInUse()-before)
	}
	t.Logf("%d MiB went by in %s, the heap grew by up to %d MiB, the bound is %d MiB", n*neverReadSize>>20, time.Since(began), most>>20, neverReadLimit>>20)
	if most > neverReadLimit {
		t.Errorf("the heap grew by %d bytes, want at most %d", most, neverReadLimit)
	}
	// Nothing of what it missed is kept for it but what is in its channel.
	if waits := len(stalledCommits) * neverReadSize; waits > 4<<20 {
		t.Errorf("%d bytes wait in its channel", waits)
	}
	close(stalled)
	close(propose)
	for p := range stalledCommits {
		if p == nil {
			late.load(t, stalledConsume)
		} else {
			late.apply(p)
		}
	}
	if late != all {
		t.Errorf("who read late holds %+v, the other one %+v", late, all)
	}
	drain(commits, errs, consume)
	for err := range stalledErrs {
		if !errors.Is(err, ErrSlowConsumer) {
			t.Error(err)
		}
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

// TestConsumeBeforeItsNil calls the SnapshotConsumer while the nil is still in
// the commit channel, behind changes that have not been applied: that is refused
// (a snapshot made of such a state would lack them, for everybody), and the nil
// is served when it has been received.
func TestConsumeBeforeItsNil(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	const n = 15
	cfg.SnapshotEntries = n // not fewer: the nil could come amid them, and the rest wait behind it
	cc := start(t, cfg)
	applied := 0
	propose, commits, errs, consume, err := cc.SubscribeToDataStructureWithStringID(sampleID, func() ([]byte, error) {
		return make([]byte, applied), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		propose <- []byte("x")
	}
	waitStatus(t, cc, "all changes and a nil in the commit channel", func(Status) bool { return len(commits) == n+1 })
	if data, err := consume(); !errors.Is(err, ErrNoSnapshotDue) {
		t.Errorf("with %d changes and the nil unread: %d bytes, %v", len(commits), len(data), err)
	}
	for ; applied < n; applied++ {
		if p := <-commits; p == nil {
			t.Fatalf("a nil behind %d changes", applied)
		}
	}
	if _, err := consume(); !errors.Is(err, ErrNoSnapshotDue) {
		t.Errorf("with the nil alone unread: %v", err)
	}
	if p := <-commits; p != nil {
		t.Fatalf("commit %q", p)
	}
	if data, err := consume(); err != nil || len(data) != n {
		t.Errorf("the snapshot of %d changes has %d bytes, %v", n, len(data), err)
	}
	if _, err := consume(); !errors.Is(err, ErrNoSnapshotDue) {
		t.Errorf("for the second time: %v", err)
	}
	waitStatus(t, cc, "the snapshot", func(s Status) bool {
		st, ok := structure(s, sampleID)
		return ok && st.Snapshot > 0
	})
	close(propose)
	drain(commits, errs, consume)
	// Whoever comes later loads what the snapshot holds.
	propose, commits, errs, consume, err = cc.SubscribeToDataStructureWithStringID(sampleID, func() ([]byte, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	waitStatus(t, cc, "the nil of a load", func(Status) bool { return len(commits) >= 1 })
	if data, err := consume(); !errors.Is(err, ErrNoSnapshotDue) {
		t.Errorf("before the nil of a load: %d bytes, %v", len(data), err)
	}
	if p := <-commits; p != nil {
		t.Fatalf("first commit is %q", p)
	}
	data, err := consume()
	if err != nil {
		t.Fatal(err)
	}
	close(propose)
	total := len(data)
	for p := range commits {
		if p != nil {
			total++
		}
	}
	drain(nil, errs, consume)
	if total != n {
		t.Errorf("a load and what follows make %d changes, want %d", total, n)
	}
}
