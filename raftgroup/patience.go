package raftgroup

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// Where many groups commit a little each, what counts is how many steps each
// commit takes. Of a commit by three voters, the leader hears three times: from its
// own log and from two followers. The first of these commits nothing yet, and the
// last one has nothing to add. So they wait in the mailbox for the one in between,
// or for the next step, or a tick.

// maxBears bounds the events that wait when nothing is to be committed.
const maxBears = 8

// patience tells how many events need no step, and whether a tick may be left out: none
// and no but in a crowd. With few groups awake, a step that is made before its time
// is one less to be made when the commit is due, and a dead leader is to be noticed soon.
func (g *Group) patience() (bears uint8, well bool) {
	if int(g.host.awakes.Load()) < g.host.cfg.Crowd {
		return 0, false
	}
	return g.bears(), g.allWell()
}

// bears is how many of a leader's acknowledgements, and answers of its log, need
// no step: as many as do not commit anything, while raft would do nothing else with
// them either, such as to apply what is committed. With one more, the group is stepped.
func (g *Group) bears() uint8 {
	if !g.isLeader() || g.stalled || g.quietness.quiet || len(g.reads) > 0 || g.leader.confirm || isJoint(g.state.conf) ||
		!g.leader.handing.IsZero() && g.now.Sub(g.leader.handing) < g.election() {
		return 0
	}
	for _, sub := range g.subs {
		if sub.prop.unsent() > 0 {
			return 0 // perhaps for an append to be answered
		}
	}
	for _, a := range g.appends {
		if a.install != nil || a.adopt != nil {
			return 0
		}
	}
	commit, have := g.hard.GetCommit(), 0
	if g.state.index < commit {
		return 0 // followers were faster: raft has nothing applied that the log here has not answered for
	}
	all := true // followers are sent everything, as it comes
	g.rn.WithProgress(func(r uint64, kind raft.ProgressType, pr tracker.Progress) {
		if r != uint64(g.self) && (pr.State != tracker.StateReplicate || pr.MsgAppFlowPaused || pr.Next <= g.last) {
			all = false
		}
		if kind == raft.ProgressTypePeer && pr.Match > commit {
			have++
		}
	})
	switch {
	case !all:
		return 0
	case commit == g.last:
		return maxBears
	}
	return uint8(min(max(len(g.state.conf.GetVoters())/2-have, 0), maxBears))
}

// allWell reports whether everybody has been heard since the last tick who is to
// be: the leader, or everybody who follows it. Time that passes then brings nothing
// up that could not wait.
func (g *Group) allWell() bool {
	switch {
	case g.rn == nil || g.failure != nil || g.stalled || g.lead == raft.None:
		return false
	case g.isLeader():
		return g.beats.allFresh(len(g.state.members) - 1)
	}
	return g.heardLead
}
