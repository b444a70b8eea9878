package raftgroup

import (
	"fmt"
	"slices"

	"github.com/copycat-replication/copycat/snapshot"
)

// findOrphans lists the local numbers that have snapshot files, and of them those
// that the log store does not know: of replicas that were being seeded, or removed,
// when the process ended. No number is given out twice, so nobody will use them
// again. The files of replicas that were set aside stay, like their logs.
func findOrphans(log LogStore, snaps *snapshot.Store) (found, orphans []uint64, err error) {
	if found, err = snaps.Groups(); err != nil {
		return nil, nil, fmt.Errorf("list snapshots: %w", err)
	}
	known := make(map[uint64]bool)
	for _, st := range log.Groups() {
		known[st.Group] = true
	}
	for _, s := range log.Suspects() {
		known[s.Group] = true
	}
	orphans = slices.DeleteFunc(slices.Clone(found), func(local uint64) bool { return known[local] })
	return found, orphans, nil
}

// sweep removes the snapshot files that were found without a replica, and what the
// end of the last process has left half written of those with one: the next snapshot
// of a group would remove that, but there may be no room for it. What was half
// fetched stays until something is fetched: that may be the rest of it.
func (h *Host) sweep() {
	h.mu.Lock()
	groups := h.replicasLocked()
	h.mu.Unlock()
	for _, g := range groups {
		if _, ok := slices.BinarySearch(h.filed, g.local); ok {
			h.jobs.files.add(func() {
				if err := h.snaps.ClearTemporary(g.local); err != nil {
					g.log.Warn("half-written snapshots are left", "error", err)
				}
			})
		}
	}
	for _, local := range h.orphans {
		h.jobs.files.add(func() {
			if err := h.snaps.RemoveGroup(local); err != nil {
				h.cfg.Logger.Warn("snapshots of a replica that is not here are left", "local", local, "error", err)
				return
			}
			h.cfg.Logger.Info("removed the snapshots of a replica that is not here", "local", local)
		})
	}
}
