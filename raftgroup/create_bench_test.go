package raftgroup_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// BenchmarkCreate has one node get so many groups, one after the other. The time
// for one of them must not depend on how many there are: us/group.
func BenchmarkCreate(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("%d groups", n), func(b *testing.B) {
			for b.Loop() {
				c := rig.New(b, 1, 1)
				c.Tune = func(cfg *raftgroup.Config) { cfg.Logger = nil }
				c.StartAll()
				h := c.Nodes[0].Host
				began := time.Now()
				for i := range n {
					g := c.Genesis(rig.Structure(uint64(i+1)), 1, raftgroup.Options{Voters: 1})
					if err := h.Prepare(b.Context(), g); err != nil {
						b.Fatal(err)
					}
					if err := h.StartPrepared(b.Context(), g.Token, id.Incarnation{Birth: 2}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(time.Since(began).Microseconds())/float64(n), "us/group")
				c.StopAll()
			}
		})
	}
}
