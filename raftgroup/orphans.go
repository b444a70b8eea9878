package raftgroup

import (
	"fmt"
	"slices"

	"github.com/copycat-replication/copycat/snapshot"
)

// findOrphans lists the local numbers that have snapshot files and that the log
// store does not know: of replicas that were being seeded, or removed, when the
// process ended. No number is given out twice, so nobody will use them again.
// The files of replicas that were set aside stay, like their logs.
func findOrphans(log LogStore, snaps *snapshot.Store) ([]uint64, error) {
	found, err := snaps.Groups()
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	known := make(map[uint64]bool)
	for _, st := range log.Groups() {
		known[st.Group] = true
	}
	for _, s := range log.Suspects() {
		known[s.Group] = true
	}
	return slices.DeleteFunc(found, func(local uint64) bool { return known[local] }), nil
}

// sweep removes the snapshot files that were found without a replica.
func (h *Host) sweep() {
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
