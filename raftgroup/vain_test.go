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
