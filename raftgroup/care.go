package raftgroup

import (
	"errors"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

const (
	// placeRetry is the pause before a node that was asked to host a replica is asked again.
	placeRetry = 3 * time.Second
	// maxPlaceFailures is how often a node may fail to be asked, or refuse, before
	// another one is picked for avoidTime.
	maxPlaceFailures = 3
	avoidTime        = time.Minute
	// maxRests is after how many such pauses in a row a leave goes on without that
	// node: whatever keeps it from getting a replica may never end.
	maxRests = 2
	// placePatience is how long a node that has agreed to get a replica may take
	// to ask for its ReplicaID.
	placePatience = 30 * time.Second
	// silenceTime is how long a replica on a live node is silent before that node
	// is asked whether it has it: longer than an election.
	silenceTime = 5 * time.Second
	// transferRetry is the pause before leadership is handed over again.
	transferRetry = 5 * time.Second
	// busyPatience is for how long a node may be busy with other replicas before
	// another one is picked.
	busyPatience = 5 * time.Minute
	// settleTime is how long nobody must have been there for a leaving voter's place
	// before a group goes on with fewer than three, unless ReplaceAfter is shorter:
	// gossip finds a live node again within seconds. Whoever leaves waits for it.
	settleTime = 15 * time.Second
	// idleFactor times Config.ReplaceAfter is how long a learner that nobody
	// needs stays: subscribers come back.
	idleFactor = 5
	// strayTime is how long a learner that nobody needs stays where the options
	// do not allow a replica: a subscription that waits for it opens its session
	// within that.
	strayTime = 30 * time.Second
)

// care is what a leader remembers between two looks at its group's membership.
// A new leader begins without any: each grace period is one leader's own.
type care struct {
	silent   map[id.Replica]time.Time // members that raft does not hear of, since when
	gone     map[id.Replica]time.Time // of these, those that gossip does not see either, or that have stopped
	ghosts   map[id.Replica]bool      // of these, those that their node has no more
	stopped  map[id.Replica]bool      // of these, those that their node says have stopped
	asked    map[id.Replica]time.Time // when its node was asked for it
	told     map[id.Replica]bool      // reported as lost
	places   map[id.Node]*placing
	unseen   map[id.Replica]time.Time // learners whose nodes gossip does not see, since when
	behind   map[id.Replica]behind    // learners that have not caught up
	better   time.Time                // since when a better spread is possible; zero: it is not
	idle     map[id.Replica]time.Time
	transfer time.Time // when leadership was last handed over
	alone    time.Time // since when nobody can take a leaving voter's place, and few would be left; zero: it is not so
	joint    time.Time // since when a joint change is under way; zero: none is
	waits    string
	missed   map[id.Replica]Missing // as shown; nobody changes it
}

// placing is a node that was asked to get a replica.
type placing struct {
	first    time.Time // when it began to be asked, after its last rest
	began    time.Time // the same, or later: what it does counts as progress until then
	asked    time.Time
	failures int
	avoid    time.Time // until then
	rests    int       // how often it has been avoided, and asked again in between
	why      string    // it has no replica: what it said last
}

func newPlacing(now time.Time) *placing { return &placing{first: now, began: now} }

// put is m[k] = v for a map that is made with its first entry: thousands of
// groups have leaders here, and most of their maps stay empty for good.
func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

// liveNodes are the nodes that gossip sees, by their IDs.
func (h *Host) liveNodes() []Node {
	nodes := h.dir.Nodes()
	slices.SortFunc(nodes, func(a, b Node) int { return slices.Compare(a.ID[:], b.ID[:]) })
	for i := range nodes {
		if nodes[i].ID == h.cfg.Node && h.leaving.Load() {
			nodes[i].Leaving = true
		}
	}
	return nodes
}

// tend compares the wish with the fact, and does what follows from it.
func (c *care) tend(g *Group, nodes []Node) {
	v := c.survey(g, nodes)
	c.watch(g, v)
	c.noteBehind(g, v)
	c.noteUnseen(g, v)
	d := v.decide()
	lasts(&c.better, d.better, g.now)
	lasts(&c.alone, d.alone, g.now)
	lasts(&c.joint, isJoint(g.state.conf), g.now)
	c.noteIdle(g, d.surplus)
	if !isJoint(g.state.conf) { // else v has not begun
		c.noteMissing(g, v)
	}
	if c.waits != d.waits {
		c.waits, g.statusDirty = d.waits, true
	}
	for _, node := range d.place {
		c.place(g, node)
	}
	switch {
	case g.leader.changePending(g.now):
		// Raft drops its leave of a joint change while the lead is handed over.
	case d.transfer != 0:
		c.handOver(g, d)
	case c.stuckJoint(g):
		// With the lead handed over, or for whatever reason, raft's own leave was
		// dropped, and it tries again only with the next entry, which may never come.
		g.log.Info("leaving a joint membership that has stayed")
		if err := g.proposeConf(&raftpb.ConfChangeV2{}, [16]byte{}); err != nil {
			g.log.Debug("joint membership not left, will try again", "error", err)
		}
	case len(d.change) > 0:
		g.log.Info("changing the membership", "why", d.why, "change", d.change)
		cc := &raftpb.ConfChangeV2{Changes: d.change}
		if err := g.proposeConf(cc, [16]byte{}); err != nil {
			g.log.Debug("membership change not proposed, will try again", "error", err)
		}
	}
}

// lasts notes since when something is so.
func lasts(since *time.Time, so bool, now time.Time) {
	switch {
	case !so:
		*since = time.Time{}
	case since.IsZero():
		*since = now
	}
}

// stuckJoint reports whether a joint change has been under way for longer than
// the leave, which raft proposes by itself, takes.
func (c *care) stuckJoint(g *Group) bool {
	return !c.joint.IsZero() && g.now.Sub(c.joint) >= changeRetry && g.rn.BasicStatus().LeadTransferee == raft.None
}

func (c *care) survey(g *Group, nodes []Node) *survey {
	st := g.state
	v := &survey{
		structure: st.group.Structure, self: g.self, conf: st.conf, members: st.members, options: st.options, nodes: nodes,
		stopped: c.stopped, active: map[id.Replica]bool{g.self: true}, caughtUp: map[id.Replica]bool{g.self: true}, // the others mostly stay nil
		mayMove: !c.better.IsZero() && g.now.Sub(c.better) >= g.host.cfg.ReplaceAfter,
		settled: !c.alone.IsZero() && g.now.Sub(c.alone) >= min(g.host.cfg.ReplaceAfter, settleTime),
	}
	g.rn.WithProgress(func(rid uint64, _ raft.ProgressType, pr tracker.Progress) {
		r := id.Replica(rid)
		if pr.RecentActive {
			v.active[r] = true
			v.caughtUp[r] = v.caughtUp[r] || pr.State == tracker.StateReplicate && pr.Match+promoteLag >= st.index
		}
	})
	for r, since := range c.silent {
		put(&v.away, r, !v.active[r] && g.now.Sub(since) >= silenceTime)
		if !v.active[r] && g.now.Sub(since) >= g.host.cfg.ReplaceAfter {
			learner := slices.Contains(st.conf.GetLearners(), uint64(r))
			put(&v.deaf, r, learner)
			put(&v.unheard, r, !learner)
		}
	}
	for r, b := range c.behind {
		if !v.caughtUp[r] && g.now.Sub(b.since) >= b.patience {
			put(&v.deaf, r, true)
		}
	}
	for r, since := range c.unseen {
		put(&v.unseenLong, r, g.now.Sub(since) >= g.host.cfg.ReplaceAfter)
	}
	for node, p := range c.places {
		put(&v.avoided, node, g.now.Before(p.avoid))
		put(&v.hopeless, node, p.rests >= maxRests)
		put(&v.refusals, node, p.why)
	}
	if !g.onlyFollowed() {
		for _, s := range st.sessions.live {
			put(&v.busy, s.node, true)
		}
	}
	for r, since := range c.idle {
		put(&v.idle, r, g.now.Sub(since)/idleFactor >= g.host.cfg.ReplaceAfter) // of which five may be more than a Duration holds
		put(&v.stray, r, g.now.Sub(since) >= strayTime)
	}
	return v
}

// onlyFollowed reports whether all who subscribe here take a replica as it comes:
// the catalog's group is such a one, on all its nodes. What nodes have a replica
// for no other reason than that they once had a voter, would keep a learner.
func (g *Group) onlyFollowed() bool {
	return len(g.subs) > 0 && !slices.ContainsFunc(g.subs, func(s *Subscription) bool { return !s.cfg.Passive })
}

// watch finds out who is lost: a member that neither raft nor gossip has heard
// of for the whole grace period, by this leader's clock; one that has stopped
// on its node for as long; and one whose node says that it is not there.
func (c *care) watch(g *Group, v *survey) {
	members := func(r id.Replica) bool { _, ok := v.members[r]; return ok }
	for _, m := range []map[id.Replica]time.Time{c.silent, c.gone, c.asked, c.idle} {
		maps.DeleteFunc(m, func(r id.Replica, _ time.Time) bool { return !members(r) })
	}
	for _, m := range []map[id.Replica]bool{c.ghosts, c.stopped, c.told} {
		maps.DeleteFunc(m, func(r id.Replica, _ bool) bool { return !members(r) })
	}
	for _, r := range slices.Sorted(maps.Keys(v.members)) {
		node := v.members[r]
		if v.active[r] {
			delete(c.silent, r)
			delete(c.gone, r)
			delete(c.ghosts, r)
			delete(c.stopped, r)
			delete(c.told, r)
			continue
		}
		if _, known := c.silent[r]; !known {
			put(&c.silent, r, g.now)
		}
		live := slices.ContainsFunc(v.nodes, func(n Node) bool { return n.ID == node })
		if live && g.now.Sub(c.silent[r]) >= silenceTime && g.now.Sub(c.asked[r]) >= silenceTime {
			put(&c.asked, r, g.now)
			g.host.askWhether(g, r, node)
		}
		since, gone := c.gone[r]
		switch {
		case live && !c.stopped[r]:
			delete(c.gone, r)
		case !gone:
			put(&c.gone, r, g.now)
		}
		if c.ghosts[r] || gone && g.now.Sub(since) >= g.host.cfg.ReplaceAfter && (!live || c.stopped[r]) {
			put(&v.lost, r, true)
			c.tellLost(g, r, node)
		}
	}
}

func (c *care) tellLost(g *Group, r id.Replica, node id.Node) {
	if c.told[r] {
		return
	}
	put(&c.told, r, true)
	g.log.Warn("replica is lost", "lost", uint64(r), "node", node.String(), "ghost", c.ghosts[r])
	g.emit(Event{Kind: EventReplicaLost, Replica: r, Node: node})
}

// noteIdle counts for how long learners have not been needed.
func (c *care) noteIdle(g *Group, surplus []id.Replica) {
	maps.DeleteFunc(c.idle, func(r id.Replica, _ time.Time) bool { return !slices.Contains(surplus, r) })
	for _, r := range surplus {
		if _, known := c.idle[r]; !known {
			put(&c.idle, r, g.now)
		}
	}
}

// handOver transfers the lead. Raft takes no proposals meanwhile, and gives up
// after an election time-out.
func (c *care) handOver(g *Group, d decision) {
	if g.now.Sub(c.transfer) < transferRetry {
		return
	}
	c.transfer = g.now
	g.log.Info("handing over the lead", "to", uint64(d.transfer), "why", d.why)
	g.leader.handing = g.now
	g.rn.TransferLeader(uint64(d.transfer))
}

// place asks a node to get a replica of this group, as often as is good.
func (c *care) place(g *Group, node id.Node) {
	p := c.places[node]
	if p == nil {
		if !g.host.moves.take(g.now) {
			return // this node has begun enough; with one of the next ticks
		}
		p = newPlacing(g.now)
		put(&c.places, node, p)
	}
	if g.now.Before(p.avoid) || (!p.asked.IsZero() && g.now.Sub(p.asked) < placeRetry) {
		return
	}
	switch {
	case !p.avoid.IsZero(): // it has had its rest
		rests, why := p.rests, p.why
		*p = *newPlacing(g.now)
		p.rests, p.why = rests, why
	case !p.asked.IsZero() && g.now.Sub(p.asked) >= placePatience/2: // it was not wanted for a while
		*p = *newPlacing(g.now)
	}
	if slices.ContainsFunc(g.state.intents, func(i intent) bool { return i.node == node }) {
		p.began = g.now // it is at it, and a large snapshot may take long
	}
	if p.failures >= maxPlaceFailures || g.now.Sub(p.began) >= placePatience {
		g.log.Warn("node does not get a replica, picking another", "node", node.String(), "failures", p.failures, "why", p.why)
		p.avoid = g.now.Add(avoidTime)
		p.rests++
		return
	}
	p.asked = g.now
	g.log.Info("asking a node to host a replica", "node", node.String())
	g.host.askToHost(g, node)
}

// onPlaced hears what came of asking a node. One that is busy is asked again, for
// some minutes: what keeps it busy may never end.
func (c *care) onPlaced(g *Group, node id.Node, err error) {
	p := c.places[node]
	switch {
	case p == nil || !g.isLeader():
	case err == nil:
		p.failures, p.why = 0, "it has agreed, and has not come to an end"
	case errors.Is(err, ErrBusy):
		p.why = err.Error()
		if g.now.Sub(p.first) < busyPatience {
			p.began = g.now
		}
	default:
		p.why = err.Error()
		p.failures++
	}
}

// onMembers forgets that a node was asked for a replica: it has one.
func (c *care) onMembers(g *Group) {
	maps.DeleteFunc(c.places, func(node id.Node, p *placing) bool {
		_, has := g.state.replicaOn(node)
		return has && !g.now.Before(p.avoid)
	})
}

// onHosting hears what a node says of a replica that it should have.
func (c *care) onHosting(g *Group, r id.Replica, h grouppb.HostingResponse_Hosting) {
	if !g.isLeader() {
		return
	}
	if _, silent := c.silent[r]; !silent {
		return // raft has heard of it meanwhile
	}
	switch h {
	case grouppb.HostingResponse_ABSENT:
		put(&c.ghosts, r, true)
	case grouppb.HostingResponse_STOPPED:
		put(&c.stopped, r, true)
	default:
		delete(c.stopped, r)
	}
}

// atRest reports whether nothing is to be done that time alone would bring up.
// A change of the nodes wakes the group. What the status shows is as of the last look:
// nobody looks again while the group rests.
func (c *care) atRest(g *Group, nodes []Node) bool {
	d := c.survey(g, nodes).decide()
	if c.waits != d.waits || len(c.missed) > 0 {
		return false
	}
	return !d.open && len(d.place) == 0 && d.transfer == 0 && len(d.change) == 0 && !d.better && len(d.surplus) == 0
}
