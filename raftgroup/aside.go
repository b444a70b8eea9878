package raftgroup

import (
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// Aside is a replica that the log store has set aside, because its log cannot
// be proven whole: it is kept, and neither votes nor serves.
type Aside struct {
	Group   id.Group   // zero: what is left does not tell
	Replica id.Replica // 0: what is left does not tell
	Why     string
	File    string // base name of a segment of the log; "" if not known any more
	Offset  int64  // in File; -1: not known
}

// Aside lists the replicas that were set aside.
func (h *Host) Aside() []Aside {
	var out []Aside
	for _, s := range h.log.Suspects() {
		a := Aside{Why: s.Why, File: s.File, Offset: s.Offset}
		var meta grouppb.Replica
		if len(s.Meta) > 0 && meta.Unmarshal(s.Meta) == nil {
			if genesis, err := decodeGenesis(meta.Genesis); err == nil {
				a.Group, a.Replica = genesis.Group, id.Replica(meta.Replica)
			}
		}
		out = append(out, a)
	}
	return out
}
