package raftgroup

import (
	"sync"

	"github.com/copycat-replication/copycat/snapshot"
)

// snapshotFiles says which snapshot files of a group must stay: those that a
// frame names, and those that are on their way to that. Old files are removed
// by a job that runs some time after the step that made them old; what it
// keeps is therefore read here when it runs.
type snapshotFiles struct {
	mu    sync.Mutex
	named [2]SnapshotRef      // held and previous
	fresh map[SnapshotRef]int // being fetched, or made and not announced: how many want it
}

// want keeps a file that no frame names yet; forget lets it go.
func (f *snapshotFiles) want(ref SnapshotRef) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wantLocked(ref)
}

func (f *snapshotFiles) wantLocked(ref SnapshotRef) {
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

// commit finishes a file and wants it, in one step as retain sees it.
func (f *snapshotFiles) commit(w *snapshot.Writer) (SnapshotRef, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ref, err := w.Commit()
	if err == nil {
		f.wantLocked(ref)
	}
	return ref, err
}

// retain removes every other file of the group.
func (f *snapshotFiles) retain(store *snapshot.Store, local uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	keep := append([]SnapshotRef(nil), f.named[:]...)
	for ref := range f.fresh {
		keep = append(keep, ref)
	}
	return store.Retain(local, keep...)
}
