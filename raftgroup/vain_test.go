package raftgroup_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestTargetThatNeverGetsTheSnapshot has the node that should take a lost voter's
// place agree to it, and then not come to an end: the snapshot does not fit on its
// disk, say. Another one gets the replica.
func TestTargetThatNeverGetsTheSnapshot(t *testing.T) {
	t.Parallel()
	for bad := 3; bad < 5; bad++ { // one of the two is the first choice
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWard(t, 49, 5, 3)
				broken := w.Nodes[bad]
				broken.Stop()
				tune := w.Tune
				w.Tune = func(cfg *raftgroup.Config) {
					tune(cfg)
					if cfg.Node == broken.ID {
						net := &faultyNet{Network: cfg.Network}
						net.onFetch(func(context.Context, id.Node, grouppb.FetchRequest) (io.ReadCloser, error) {
							return nil, errors.New("a test says that it does not fit")
						})
						cfg.Network = net
					}
				}
				broken.Start()
				leader, _, _ := leadNode(w.Cluster, w.s)
				w.write(leader)
				w.Wait(2*time.Minute, "a snapshot that others must begin with", func() bool {
					_, st, ok := leadNode(w.Cluster, w.s)
					return ok && st.Snapshot.Index > 0
				})
				time.Sleep(5 * time.Second)
				dead := w.Nodes[(slices.Index(w.Nodes, leader)+1)%3]
				dead.Stop()
				w.Wait(6*time.Minute, "a voter in its place, elsewhere", func() bool {
					nodes, _ := voterNodes(w.Cluster, w.s)
					return len(nodes) == 3 && !slices.Contains(nodes, dead) && !slices.Contains(nodes, broken)
				})
				w.verify()
			})
		})
	}
}

// TestLearnerThatNeverCatchesUp has a learner fall behind the log, and then not get
// the snapshot: it is heard of, and does not come a step further. A voter that is
// lost meanwhile is replaced by another node.
func TestLearnerThatNeverCatchesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 50, 5, 3)
		behind := w.Nodes[4]
		behind.Stop()
		var net *faultyNet
		tune := w.Tune
		w.Tune = func(cfg *raftgroup.Config) {
			tune(cfg)
			if cfg.Node == behind.ID {
				net = &faultyNet{Network: cfg.Network}
				cfg.Network = net
			}
		}
		behind.Start()
		subscribe(t, behind, raftgroup.SubscriptionConfig{Structure: w.s})
		w.Wait(2*time.Minute, "a learner", func() bool { _, learners := voterNodes(w.Cluster, w.s); return learners == 1 })
		net.onFetch(func(context.Context, id.Node, grouppb.FetchRequest) (io.ReadCloser, error) {
			return nil, errors.New("a test says that it does not fit")
		})
		for _, n := range w.Nodes[:3] {
			w.Net.Cut(n.ID, behind.ID)
			w.Net.Cut(behind.ID, n.ID)
		}
		time.Sleep(6 * time.Minute) // longer than the log is kept for those who join
		leader, _, _ := leadNode(w.Cluster, w.s)
		w.write(leader)
		time.Sleep(30 * time.Second)
		w.Net.Heal()
		time.Sleep(10 * time.Second)
		leader, st, _ := leadNode(w.Cluster, w.s)
		if len(st.Learners) != 1 || len(st.Missing) > 0 {
			t.Fatalf("the learner is not heard of: %+v", st)
		}
		dead := w.Nodes[(slices.Index(w.Nodes, leader)+1)%3]
		dead.Stop()
		w.Wait(10*time.Minute, "a voter in its place, elsewhere", func() bool {
			nodes, _ := voterNodes(w.Cluster, w.s)
			return len(nodes) == 3 && !slices.Contains(nodes, dead) && !slices.Contains(nodes, behind)
		})
		net.onFetch(func(ctx context.Context, to id.Node, req grouppb.FetchRequest) (io.ReadCloser, error) {
			return net.open(ctx, t, to, req)
		})
		w.verify()
	})
}
