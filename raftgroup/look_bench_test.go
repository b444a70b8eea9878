package raftgroup

import (
	"fmt"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
)

// BenchmarkLook is what a leader does twice a second for each group that is
// awake: it compares the wish with the fact. Nothing is to be done.
func BenchmarkLook(b *testing.B) {
	for _, nodes := range []int{3, 12, 60} {
		b.Run(fmt.Sprintf("%d nodes", nodes), func(b *testing.B) {
			var live []Node
			for i := range nodes {
				live = append(live, Node{ID: sceneNode(i + 1), DataCenter: fmt.Sprint("dc", i%3), Rack: fmt.Sprint("r", i%2), Capacity: 1})
			}
			on := map[id.Replica]id.Node{1: live[0].ID, 2: live[1].ID, 3: live[2].ID}
			all := map[id.Replica]bool{1: true, 2: true, 3: true}
			conf := &raftpb.ConfState{Voters: []uint64{1, 2, 3}}
			opt := Options{}.withDefaults()
			b.ReportAllocs()
			for b.Loop() {
				v := &survey{structure: id.Structure{1}, self: 1, conf: conf, members: on, options: opt, nodes: live, active: all, caughtUp: all}
				if d := v.decide(); len(d.place) > 0 || len(d.change) > 0 || d.transfer != 0 || d.waits != "" {
					b.Fatalf("%+v", d)
				}
			}
		})
	}
}
