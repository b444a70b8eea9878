package raftgroup

import "github.com/copycat-replication/copycat/id"

// publishShare is how many replicas are published in a tick, on average: the
// list is always told whole, and while thousands are made it changes all the time.
// With ten thousand it is told once a second then, and at once in quieter times.
const publishShare = 1000

// hostedChanged has the directory told with the next tick.
func (h *Host) hostedChanged() {
	h.mu.Lock()
	h.changed = true
	h.mu.Unlock()
}

// hosted lists the started replicas, oldest first.
func (h *Host) hosted() []Hosted {
	h.mu.Lock()
	// The key of a group that is being started at this moment is its step's.
	keys := make(map[*Group]id.Group, len(h.groups))
	for key, g := range h.groups {
		keys[g] = key
	}
	groups := h.replicasLocked()
	h.mu.Unlock()
	out := make([]Hosted, 0, len(keys))
	for _, g := range groups {
		key, started := keys[g]
		st := g.status.Load()
		if !started || st.Failed || st.Deleted {
			continue
		}
		out = append(out, Hosted{Group: key, Replica: g.self, Voter: st.Voter, Leader: st.IsLeader})
	}
	return out
}
