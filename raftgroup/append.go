package raftgroup

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/wal"
)

// appending is one append under way, with what raft wants to hear or send
// once it is durable.
type appending struct {
	updates   [1]wal.Update
	responses []*raftpb.Message
	install   *state // the state of the snapshot that the append installs
	adopt     *state // the state of the snapshot that the append adopts
	ref       SnapshotRef
}

// append hands entries, hard state and snapshot to the log store.
func (g *Group) append(m *raftpb.Message) {
	a := &appending{updates: [1]wal.Update{{Group: g.local, Entries: m.GetEntries()}}, responses: m.GetResponses()}
	mustWrite := len(m.GetEntries()) > 0
	if m.Term != nil {
		hs := &raftpb.HardState{Term: new(m.GetTerm()), Vote: new(m.GetVote()), Commit: new(m.GetCommit())}
		mustWrite = mustWrite || hs.GetTerm() != g.hard.GetTerm() || hs.GetVote() != g.hard.GetVote()
		g.hard, g.hardDirty = hs, true
	}
	if n := len(m.GetEntries()); n > 0 {
		g.last = m.GetEntries()[n-1].GetIndex()
		if g.leader.leading && g.leader.changed == 0 {
			g.leader.changed = g.last // its first entry, and perhaps some of others before it
		}
	}
	if m.GetSnapshot() != nil {
		mustWrite = true
		if err := g.installUpdate(a, m.GetSnapshot()); err != nil {
			g.fail(err)
			return
		}
	}
	if !mustWrite {
		// Only the commit index moved: nothing that has to be durable by
		// itself, so it rides on the next write. What raft wants to send must
		// still wait for the appends before it.
		if n := len(g.appends); n > 0 {
			g.appends[n-1].responses = append(g.appends[n-1].responses, a.responses...)
			return
		}
		g.respond(a.responses)
		return
	}
	g.submit(a)
}

func (g *Group) submit(a *appending) {
	if g.hardDirty {
		a.updates[0].HardState, g.hardDirty = g.hard, false
	}
	g.appends = append(g.appends, a)
	if !g.stalled {
		g.hand(a)
	}
}

// hand gives an append to the log store. The log store refuses entries that
// would leave a hole, so that of several appends under way none is kept if an
// earlier one was not.
func (g *Group) hand(a *appending) {
	g.handed++
	g.host.making.appends.Add(1)
	g.host.log.Submit(a.updates[:], g.onAnswer)
}

// written is the answer to almost every append.
var written = &appendResult{}

// answered takes the log store's answer to the oldest append handed to it.
func (g *Group) answered(err error) {
	r := written
	if err != nil {
		r = &appendResult{err: err}
	}
	g.post(event{appended: r})
}

// onAppended hears that the oldest append under way is durable, or failed.
func (g *Group) onAppended(err error) {
	g.handed--
	if len(g.appends) == 0 || g.failure != nil {
		return
	}
	if err != nil {
		g.onAppendFailed(err)
		return
	}
	if g.stalled {
		return // it will be handed in again, behind the one that failed: writing twice changes nothing
	}
	a := g.appends[0]
	g.appends[0] = nil
	g.appends = g.appends[1:]
	if a.install != nil {
		g.installed(a)
	}
	if a.adopt != nil {
		g.snaps.adopted(g, a)
	}
	if g.rn != nil {
		g.respond(a.responses)
	}
}

// resume hands in again what a full disk refused, in order, once every answer
// is in and the log store takes writes again.
func (g *Group) resume() {
	if !g.stalled || g.handed > 0 || g.host.log.Health() != nil {
		return
	}
	g.stalled, g.statusDirty = false, true
	g.log.Info("disk has room again: this replica goes on")
	for _, a := range g.appends {
		g.hand(a)
	}
}

// respond delivers what raft attached to an append.
func (g *Group) respond(responses []*raftpb.Message) {
	for _, r := range responses {
		if r.GetTo() == uint64(g.self) {
			if err := g.rn.Step(r); err != nil {
				g.log.Debug("raft refused its own response", "type", r.GetType().String(), "error", err)
			}
			continue
		}
		g.send(r)
	}
}

// onAppendFailed reacts to a write that did not become durable. A full disk
// holds the group still until there is room; anything else is for good, since
// what was written is unknown: this replica must not vote or acknowledge any more.
func (g *Group) onAppendFailed(err error) {
	if !errors.Is(err, wal.ErrDiskFull) {
		g.fail(fmt.Errorf("%w: %w", ErrGroupFailed, err))
		return
	}
	g.lastError = err
	if !g.stalled {
		g.stalled, g.statusDirty = true, true
		g.log.Error("disk full: this replica stands still until there is room", "error", err)
		for _, sub := range g.subs {
			sub.report(fmt.Errorf("group %s: %w", g.key, err))
		}
	}
}
