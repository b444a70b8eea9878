package raftgroup

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/copycat-replication/copycat/id"
)

const (
	// pullPercent is the share of the proposals that must come from another data
	// center for the lead to go there. What swings between two by less than from
	// this to the rest of it moves nothing.
	pullPercent = 60
	// pullLooks is for how many of the leader's looks after its group in a row
	// that must have been so, counting only those before which something was
	// proposed: 10 s of activity, however long the pauses in it.
	pullLooks = 20
	// pullFade is the part of the weight of earlier proposals that one look takes
	// away: half is left after some 13 looks.
	pullFade = 20
	// pullUnit is the weight of a new proposal. Whole numbers: what is decided
	// must not depend on the order in which a map is added up.
	pullUnit = 1 << 10
	// pullRetry is the pause before the lead is handed over again, if it stayed.
	pullRetry = 30 * time.Second
)

// pull is where proposals come from, as a group's leader sees it in the log. A
// commit takes a round trip from the leader to the nearest other data center,
// and a proposal from elsewhere another one to the leader: so the lead goes to
// the data center from which most of them come (design, section 12), to a voter
// that has the whole log. It stays where an option says where it is to be.
type pull struct {
	fresh   map[id.Node]uint64 // proposals since the last look
	weights map[id.Node]uint64
	center  string // where most of them come from, not the leader's own; empty: nowhere
	looks   int    // in a row
	tried   time.Time
}

// count notes that changes of a session of that node were committed.
func (p *pull) count(node id.Node, n uint64) {
	if p.fresh == nil {
		p.fresh = make(map[id.Node]uint64)
	}
	p.fresh[node] += n
}

// onBatch counts a batch that the leader has applied.
func (p *pull) onBatch(g *Group, o *outcome) {
	if o.verdict != verdictCounts || !g.isLeader() {
		return
	}
	if s := g.state.sessions.live[o.session]; s != nil {
		p.count(s.node, o.batch.first+uint64(o.batch.count)-o.from)
	}
}

// look takes in what was proposed since the last time, and tells whether the
// lead is to go to another data center. own is the leader's.
func (p *pull) look(centers map[id.Node]string, own string) (to string, move bool) {
	if len(p.fresh) == 0 {
		return "", false
	}
	if p.weights == nil {
		p.weights = make(map[id.Node]uint64)
	}
	for node, w := range p.weights {
		if w < pullFade { // this has become nothing
			delete(p.weights, node)
			continue
		}
		p.weights[node] = w - w/pullFade
	}
	for node, n := range p.fresh {
		p.weights[node] += n * pullUnit
	}
	clear(p.fresh)
	sums, all := make(map[string]uint64), uint64(0)
	for node, w := range p.weights {
		all += w
		if center, known := centers[node]; known {
			sums[center] += w
		}
	}
	most := ""
	for center, sum := range sums {
		if 100*sum >= pullPercent*all { // more than half: there is one at most
			most = center
		}
	}
	if most == own {
		most = ""
	}
	if most != p.center {
		p.center, p.looks = most, 0
	}
	if most == "" {
		return "", false
	}
	p.looks++
	return most, p.looks >= pullLooks
}

// tick hands the lead over, if it is time.
func (p *pull) tick(g *Group, nodes []Node) {
	centers := make(map[id.Node]string, len(nodes))
	for _, n := range nodes {
		if !n.Leaving {
			centers[n.ID] = n.DataCenter
		}
	}
	to, move := p.look(centers, centers[g.host.cfg.Node])
	switch {
	case !move || g.state.options.PreferredDataCenter != "":
	case isJoint(g.state.conf) || g.leader.changePending(g.now):
	case !g.leader.care.better.IsZero():
		// The voters are to be moved, perhaps the one over there: who leads hands
		// over before it is, and must not be handed the lead for that again.
	case len(g.state.options.PinnedDataCenters) > 0 && !slices.Contains(g.state.options.PinnedDataCenters, to):
		// A voter that nobody can replace would only hand it back (see stepAside).
	case !p.tried.IsZero() && g.now.Sub(p.tried) < pullRetry:
	default:
		p.handOver(g, to, centers)
	}
}

// handOver picks the voter to lead: of those in the data center that are live
// and have the log, the one from whose node most proposals come. Raft takes no
// proposals meanwhile, and gives up after an election time-out; what is dropped
// is proposed again when the new leader is known.
func (p *pull) handOver(g *Group, center string, centers map[id.Node]string) {
	able := make(map[id.Replica]bool)
	g.rn.WithProgress(func(r uint64, kind raft.ProgressType, pr tracker.Progress) {
		able[id.Replica(r)] = kind == raft.ProgressTypePeer && pr.RecentActive && pr.State == tracker.StateReplicate && pr.Match+promoteLag >= g.state.index
	})
	var voters []id.Replica
	for _, v := range g.state.conf.GetVoters() {
		if r := id.Replica(v); able[r] && centers[g.state.members[r]] == center {
			voters = append(voters, r)
		}
	}
	if len(voters) == 0 {
		return // with the next look, perhaps
	}
	best := slices.MaxFunc(voters, func(a, b id.Replica) int {
		x, y := g.state.members[a], g.state.members[b]
		return cmp.Or(cmp.Compare(p.weights[x], p.weights[y]), bytes.Compare(y[:], x[:]))
	})
	p.tried = g.now
	g.log.Info("handing over the lead: most proposals come from there", "to", uint64(best), "data center", center)
	g.leader.handing = g.now
	g.rn.TransferLeader(uint64(best))
}
