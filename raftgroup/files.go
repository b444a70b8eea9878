package raftgroup

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/copycat-replication/copycat/snapshot"
)

// snapshotFiles says which snapshot files of a group must stay: those that a
// frame names, and those that are on their way to that. Old files are removed
// by a job that runs some time after the step that made them old; what it
// keeps is therefore read here when it runs.
//
// Steps want, name and forget, and never wait for a disk. Whoever looks for a
// file that was wanted calls settle before.
type snapshotFiles struct {
	gone atomic.Bool // the replica is being removed: nothing is fetched for it any more

	disk sync.Mutex // held while a file is finished, or old ones are removed; never by a step

	ended bool // nothing is removed any more; guarded by disk

	mu    sync.Mutex          // guards what follows, and is held over no I/O
	named [2]SnapshotRef      // held and previous
	fresh map[SnapshotRef]int // being fetched, or made and not announced: how many want it
}

// want keeps a file that no frame names yet; forget lets it go.
func (f *snapshotFiles) want(ref SnapshotRef) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fresh == nil {
		f.fresh = make(map[SnapshotRef]int)
	}
	f.fresh[ref]++
}

func (f *snapshotFiles) forget(ref SnapshotRef) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fresh[ref]--; f.fresh[ref] <= 0 {
		delete(f.fresh, ref)
	}
}

// name notes what a durable frame names from now on.
func (f *snapshotFiles) name(held, previous SnapshotRef) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.named = [2]SnapshotRef{held, previous}
}

// names tells what the newest durable frame names: held and previous.
func (f *snapshotFiles) names() [2]SnapshotRef {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.named
}

// commit finishes a file and wants it, in one step as retain sees it.
func (f *snapshotFiles) commit(w *snapshot.Writer) (SnapshotRef, error) {
	f.disk.Lock()
	defer f.disk.Unlock()
	ref, err := w.Commit()
	if err == nil {
		f.want(ref)
	}
	return ref, err
}

// retain removes every other file of the group. One that is wanted while it does
// may go too.
func (f *snapshotFiles) retain(store *snapshot.Store, local uint64) error {
	return f.remove(store.Retain, local)
}

// clear removes what came of other files in vain. Those that are complete stay: the
// log may have an announcement that this replica has not come to.
func (f *snapshotFiles) clear(store *snapshot.Store, local uint64) error {
	return f.remove(store.ClearPartial, local)
}

func (f *snapshotFiles) remove(others func(uint64, ...SnapshotRef) error, local uint64) error {
	f.disk.Lock()
	defer f.disk.Unlock()
	if f.ended {
		return nil
	}
	return others(local, f.keep()...)
}

// end has no file removed any more: somebody else says from now on which must stay,
// or nobody can tell. What retain has begun is over when it returns.
func (f *snapshotFiles) end() {
	f.disk.Lock()
	defer f.disk.Unlock()
	f.ended = true
}

func (f *snapshotFiles) keep() []SnapshotRef {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.AppendSeq(slices.Clone(f.named[:]), maps.Keys(f.fresh))
}

// settle waits until no file is removed any more that was wanted before the call.
func (f *snapshotFiles) settle() {
	f.disk.Lock()
	defer f.disk.Unlock()
}
