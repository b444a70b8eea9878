package raftgroup

import (
	"testing"
	"time"

	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/snapshot"
)

// TestFilesDoNotHoldUpSteps: a snapshot's file is being synced, or an old one
// removed, on a disk that takes its time. What steps say of files meanwhile does not
// wait for that; who looks for a file does, and it is not removed then.
func TestFilesDoNotHoldUpSteps(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]vfs.Op{"making": vfs.OpSync, "removing": vfs.OpRemove} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mem := vfs.NewMem()
			store, err := snapshot.OpenStore(snapshot.Options{FS: mem, Dir: "snapshots"})
			if err != nil {
				t.Fatal(err)
			}
			var files snapshotFiles
			write := func(index uint64) (SnapshotRef, error) {
				w, err := store.Create(1, snapshot.Head{Index: index, Term: 1})
				if err != nil {
					t.Error(err)
					return SnapshotRef{}, err
				}
				return files.commit(w)
			}
			old, err := write(1)
			if err != nil {
				t.Fatal(err)
			}
			files.forget(old)
			begun, hold := make(chan struct{}), make(chan struct{})
			mem.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
				if op == slow {
					close(begun)
					mem.SetFault(nil)
					<-hold
				}
				return nil
			})
			ended := make(chan error, 1)
			go func() {
				if slow == vfs.OpRemove {
					ended <- files.retain(store, 1)
					return
				}
				_, err := write(2)
				ended <- err
			}()
			<-begun
			stepped, looked := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stepped)
				files.want(old)
				files.name(old, SnapshotRef{})
				files.forget(old)
			}()
			go func() {
				defer close(looked)
				files.settle()
			}()
			select {
			case <-stepped:
			case <-time.After(2 * time.Minute):
				t.Error("a step waits for a disk")
			}
			select {
			case <-looked:
				t.Error("a file is looked for that may be about to go")
			default:
			}
			close(hold)
			<-looked
			if err := <-ended; err != nil {
				t.Error(err)
			}
			<-stepped
			if err := files.retain(store, 1); err != nil {
				t.Error(err)
			}
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
