package raftgroup

import (
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/copycat-replication/copycat/id"
)

const (
	// behindPatience is how long a learner that has not caught up may stay where it
	// is before a voter is made elsewhere, beside the time for its snapshot.
	behindPatience = 5 * time.Minute
	// slowestSnapshot is what a snapshot is taken to travel with, in bytes a second:
	// only its end shows that it was under way, so this errs on the side of waiting.
	slowestSnapshot = 1 << 20
)

// behind is where a learner has got to that has not caught up.
type behind struct {
	match    uint64
	since    time.Time
	patience time.Duration // from then on
}

// noteBehind notes since when learners that have not caught up come no further:
// one may be heard of for hours, and never get the snapshot that it needs. v tells
// who has caught up; raft forgets that now and then, for a moment.
func (c *care) noteBehind(g *Group, v *survey) {
	learners := v.conf.GetLearners()
	maps.DeleteFunc(c.behind, func(r id.Replica, _ behind) bool { return v.caughtUp[r] || !slices.Contains(learners, uint64(r)) })
	if !slices.ContainsFunc(learners, func(l uint64) bool { return !v.caughtUp[id.Replica(l)] }) {
		return
	}
	rate := float64(slowestSnapshot)
	if b := g.host.cfg.SnapshotBandwidth; b > 0 {
		rate = min(rate, float64(b)/transferWorkers)
	}
	takes := behindPatience + time.Duration(float64(g.snaps.held.Size)/rate*float64(time.Second))
	g.rn.WithProgress(func(rid uint64, _ raft.ProgressType, pr tracker.Progress) {
		r := id.Replica(rid)
		if !slices.Contains(learners, rid) || v.caughtUp[r] {
			return
		}
		if b, known := c.behind[r]; !known || b.match != pr.Match {
			put(&c.behind, r, behind{match: pr.Match, since: g.now, patience: takes})
		}
	})
}

// noteUnseen notes since when gossip does not see the nodes of learners.
func (c *care) noteUnseen(g *Group, v *survey) {
	unseen := func(r id.Replica) bool {
		return slices.Contains(v.conf.GetLearners(), uint64(r)) && !slices.ContainsFunc(v.nodes, func(n Node) bool { return n.ID == v.members[r] })
	}
	maps.DeleteFunc(c.unseen, func(r id.Replica, _ time.Time) bool { return !unseen(r) })
	for _, l := range v.conf.GetLearners() {
		if _, known := c.unseen[id.Replica(l)]; !known && unseen(id.Replica(l)) {
			put(&c.unseen, id.Replica(l), g.now)
		}
	}
}
