package procrig

import (
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/internal/history"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/snapshot"
)

// finish is Rig.Finish, and then looks at the snapshots that the stopped nodes
// keep: each must be the fold of the commits up to the number on its label.
func finish(t *testing.T, r *Rig) *history.Report {
	t.Helper()
	report := r.Finish()
	stored := history.NewRecorder(time.Now, nil)
	files := 0
	for _, n := range r.Nodes {
		count, err := recordStored(r, n, stored)
		if err != nil {
			t.Errorf("node %d: %v", n.Number, err)
		}
		files += count
	}
	h, err := r.history()
	if err != nil {
		t.Fatal(err)
	}
	if h, err = history.Merge(h, stored.History()); err != nil {
		t.Fatal(err)
	}
	for _, v := range history.Check(h, history.Options{}).Violations {
		if v.Rule == history.RuleSnapshot {
			t.Errorf("seed %d: %s", r.opt.Seed, v.String())
		}
	}
	t.Logf("%d stored snapshots are what they say", files)
	if due := 3 * int(r.opt.SnapshotEntries) * len(r.structures); files == 0 && report.Stats.Commits > due {
		t.Errorf("%d commits of %d structures, and nobody keeps a snapshot", report.Stats.Commits, len(r.structures))
	}
	return report
}

// recordStored records the snapshots of a stopped node.
func recordStored(r *Rig, n *Node, into *history.Recorder) (count int, err error) {
	store, err := snapshot.OpenStore(snapshot.Options{FS: vfs.OS{}, Dir: filepath.Join(n.Dir, "snapshots")})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	groups, err := store.Groups()
	if err != nil {
		return 0, err
	}
	for _, g := range groups {
		refs, err := store.List(g)
		if err != nil {
			return count, err
		}
		for _, ref := range refs {
			known, err := recordOne(r, n, store, g, ref, into)
			if err != nil {
				return count, err
			}
			if known {
				count++
			}
		}
	}
	return count, nil
}

func recordOne(r *Rig, n *Node, store *snapshot.Store, group uint64, ref snapshot.Ref, into *history.Recorder) (known bool, err error) {
	in, err := store.Open(group, ref)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	for _, s := range r.structures {
		if in.Head().Structure.String() != s.ID {
			continue
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return false, err
		}
		into.Stored(s.number, n.Number, ref.Commits, data)
		known = true
	}
	return known, nil // the catalog's own are not of this workload
}
