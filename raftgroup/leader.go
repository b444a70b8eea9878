package raftgroup

import (
	"cmp"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

const (
	// dutyInterval is how often a leader looks after its group.
	dutyInterval = 500 * time.Millisecond
	// changeRetry is the pause before a membership change or a snapshot request
	// that was not applied is proposed again.
	changeRetry = 2 * time.Second
	// offerRetry is the pause before a snapshot is offered again to a follower
	// that has said nothing about it.
	offerRetry = 10 * time.Second
	// promoteLag is how far behind a learner may be to become a voter.
	promoteLag = 128
	// makerLag is how many entries the delivery of a session may be behind for
	// it to be asked for a snapshot before others are.
	makerLag = 256
	// maxBackoff bounds the doubling of the snapshot time-out.
	maxBackoff = 5
)

// leaderDuties is what a group's leader does for its group beside leading: it
// has snapshots made, expires dead sessions and looks after the membership. It
// decides from the applied state and from gossip's hints; what it decides
// takes effect through the log alone.
type leaderDuties struct {
	leading        bool
	last           time.Time
	snapshotWanted bool
	requested      time.Time
	seen           uint64 // index of the request that waits for its maker
	seenAt         time.Time
	changed        uint64    // the membership is as of here or before, and what is behind it was sent by this leader; 0: see append
	confirm        bool      // the end of a joint change is to be written by a majority: see confirmEnd
	changing       time.Time // a membership change was proposed then, and nothing was heard of it
	handing        time.Time // when it last began to hand over the lead
	care           care
	missing        map[uint64]time.Time // sessions whose node is not seen, since when
	offered        map[uint64]time.Time // followers that are to take a snapshot, since when
	pull           pull
	routes         routes
}

func (d *leaderDuties) onRole(g *Group, leading bool) {
	if leading == d.leading {
		return
	}
	*d = leaderDuties{leading: leading}
	if leading {
		g.log.Info("leading", "term", g.rn.BasicStatus().GetTerm())
	}
}

// tick looks after the group, now and then.
func (d *leaderDuties) tick(g *Group) {
	g.confirmEnd()
	if !g.isLeader() || g.now.Sub(d.last) < dutyInterval {
		return
	}
	d.last = g.now
	nodes := g.host.liveNodes()
	d.repeatOffers(g)
	d.requestSnapshot(g, nodes)
	d.expireSessions(g, nodes)
	if !g.state.deleted {
		d.pull.tick(g, nodes)
		d.routes.tick(g, nodes)
		d.care.tend(g, nodes)
	}
}

// repeatOffers has raft offer a snapshot again to followers that have been
// busy with one for a while: the offer, or the report of its failure, may be
// lost. It does not stop a transfer that is under way: the receiver goes on
// with it, and answers the newest offer.
func (d *leaderDuties) repeatOffers(g *Group) {
	var again []uint64
	g.rn.WithProgress(func(r uint64, _ raft.ProgressType, pr tracker.Progress) {
		since, known := d.offered[r]
		switch {
		case pr.State != tracker.StateSnapshot:
			delete(d.offered, r)
		case !known:
			put(&d.offered, r, g.now)
		case g.now.Sub(since) >= offerRetry:
			delete(d.offered, r)
			again = append(again, r)
		}
	})
	for _, r := range again {
		g.rn.ReportSnapshot(r, raft.SnapshotFailure)
	}
}

// requestSnapshot names a maker when a snapshot is due, and the next one when
// the one before had its time.
func (d *leaderDuties) requestSnapshot(g *Group, nodes []Node) {
	attempt := uint32(0)
	if g.state.deleted {
		return
	}
	if r := g.state.request; r != nil {
		_, live, _ := g.state.sessions.last(r.session)
		patience := g.host.cfg.SnapshotTimeout<<min(r.attempt, maxBackoff) + g.host.making.takes(g.snaps.held.Size)
		if d.seen != r.index {
			d.seen, d.seenAt = r.index, g.now
		}
		// By this leader's own clock: the log's may stand still for long, after
		// a leader whose clock was ahead.
		if live && g.now.Sub(d.seenAt) < patience {
			return
		}
		attempt = r.attempt + 1
	} else if !g.state.snapshotDue() && !d.snapshotWanted {
		return
	}
	if g.now.Sub(d.requested) < changeRetry {
		return
	}
	maker, ok := g.maker(nodes, attempt)
	if !ok {
		return // nobody has the state: detached replicas keep the log until somebody subscribes
	}
	d.requested, d.snapshotWanted = g.now, false
	if err := g.proposeRecord(KindSnapshotRequest, &grouppb.SnapshotRequest{Session: maker, Attempt: attempt}); err != nil {
		g.log.Debug("snapshot not requested, will try again", "error", err)
	}
}

// maker picks a session that is to make a snapshot. Without a replica on its node
// it could not: it may be of a subscription that waits for one, or has ended.
func (g *Group) maker(nodes []Node, attempt uint32) (uint64, bool) {
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { _, here := g.state.replicaOn(n.ID); return !here })
	return chooseMaker(g.state.sessions.sorted(), nodes, g.host.cfg.Node, attempt, g.deliveryLag)
}

// chooseMaker picks a live session: those on the leader's own node that keep up
// with the log first, then those of other nodes, then the rest of its own; one
// further with each attempt. lag tells how many entries the delivery of a session
// on this node is behind, and no if it will not make anything: who is not
// reading would keep everybody waiting.
func chooseMaker(sessions []*session, nodes []Node, self id.Node, attempt uint32, lag func(session uint64) (entries uint64, ok bool)) (uint64, bool) {
	type candidate struct {
		session uint64
		rank    int
		lag     uint64
	}
	var live []candidate
	for _, s := range sessions {
		if !slices.ContainsFunc(nodes, func(n Node) bool { return n.ID == s.node && n.Incarnation == s.incarnation }) {
			continue
		}
		c := candidate{session: s.id, rank: 1}
		if s.node == self {
			behind, ok := lag(s.id)
			c.lag = behind
			if c.rank = 0; !ok || behind > makerLag {
				c.rank = 2
			}
		}
		live = append(live, c)
	}
	if len(live) == 0 {
		return 0, false
	}
	slices.SortStableFunc(live, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.lag, b.lag))
	})
	return live[int(attempt)%len(live)].session, true
}

// deliveryLag is chooseMaker's question about a session of this node.
func (g *Group) deliveryLag(session uint64) (entries uint64, ok bool) {
	sub := g.bySession[session]
	if sub == nil || sub.left || sub.draining() {
		return 0, false
	}
	return g.state.index - min(g.state.index, sub.at.Load()), true
}

// expireSessions ends the sessions of nodes that are gone: not seen by gossip,
// or seen as a newer process, for longer than a restart takes.
func (d *leaderDuties) expireSessions(g *Group, nodes []Node) {
	for _, s := range g.state.sessions.sorted() {
		if slices.ContainsFunc(nodes, func(n Node) bool { return n.ID == s.node && n.Incarnation <= s.incarnation }) {
			delete(d.missing, s.id)
			continue
		}
		since, ok := d.missing[s.id]
		if !ok {
			put(&d.missing, s.id, g.now)
			continue
		}
		if g.now.Sub(since) < g.host.cfg.SessionTimeout {
			continue
		}
		put(&d.missing, s.id, g.now) // if it is void, start over
		g.log.Info("expiring session of a node that is gone", "session", s.id, "node", s.node.String(), "last", s.last)
		if err := g.proposeRecord(KindSessionExpire, &grouppb.SessionExpire{Session: s.id, Last: s.last}); err != nil {
			g.log.Debug("session not expired, will try again", "error", err)
		}
	}
	for s := range d.missing {
		if g.state.sessions.live[s] == nil {
			delete(d.missing, s)
		}
	}
}

// changePending reports whether a membership change is under way. Raft takes one
// at a time, and turns another into an empty entry without a word.
func (d *leaderDuties) changePending(now time.Time) bool {
	return now.Sub(d.changing) < changeRetry
}

// proposeConf proposes a membership change. Raft turns one that comes while
// another is pending into an empty entry, without an error.
func (g *Group) proposeConf(cc *raftpb.ConfChangeV2, nonce [16]byte) error {
	ctx := grouppb.ConfContext{Clock: g.clock(), Nonce: nonce[:]}
	data, err := ctx.Marshal()
	if err != nil {
		return err
	}
	cc.Context = data
	if err := g.rn.ProposeConfChange(proto.Clone(cc).(*raftpb.ConfChangeV2)); err != nil {
		return err
	}
	g.leader.changing = g.now
	return nil
}

// onPeerUp hears of a node's new process: a snapshot that its replica was
// busy with is not being received any more.
func (d *leaderDuties) onPeerUp(g *Group, node id.Node, _ uint64) {
	if !g.isLeader() {
		return
	}
	r, ok := g.state.replicaOn(node)
	if !ok {
		return
	}
	g.rn.WithProgress(func(rid uint64, _ raft.ProgressType, pr tracker.Progress) {
		ok = ok && (rid != uint64(r) || pr.State == tracker.StateSnapshot)
	})
	if ok {
		g.rn.ReportSnapshot(uint64(r), raft.SnapshotFailure)
	}
}
