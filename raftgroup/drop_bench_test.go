package raftgroup

import (
	"encoding/binary"
	"testing"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// BenchmarkDrop takes ten thousand replicas off a host's lists, one after the
// other, as a node that leaves does; an operation is one of them.
func BenchmarkDrop(b *testing.B) {
	const replicas = 10_000
	var groups []*Group
	var h *Host
	for i := 0; b.Loop(); i++ {
		if i%replicas == 0 {
			b.StopTimer()
			h = &Host{
				groups: make(map[id.Group]*Group), current: make(map[id.Structure]*Group), prepared: make(map[Token]PreparedReplica),
				born: make(map[Token]*Group), waiting: make(map[id.Structure][]*Subscription),
			}
			groups = groups[:0]
			for n := range replicas {
				g := &Group{host: h, self: 1, tickAt: -1}
				binary.BigEndian.PutUint64(g.key.Structure[8:], uint64(n+1))
				g.key.Incarnation.Birth = uint64(n + 1)
				copy(g.genesis.Token[:], g.key.Structure[:])
				g.meta.Phase = grouppb.Replica_STARTED
				h.register(g)
				groups = append(groups, g)
			}
			b.StartTimer()
		}
		h.drop(groups[i%replicas])
	}
}
