package raftgroup

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

const (
	// maxBatchBytes is the payload of one batch entry, unless one proposal is
	// larger. Beyond some 100 KiB the cost per proposal does not fall any more,
	// while the latency of what shares a link rises. With its header and lengths
	// it fits into one of the transport's pieces of 256 KiB.
	maxBatchBytes = 192 << 10
	maxBatchCount = 4096
	// maxAppendsInFlight is how many small batches a replica has on their way to
	// its own disk before it holds proposals back: one being synced, one being
	// collected. What comes meanwhile goes into the next batch; full batches do
	// not wait.
	maxAppendsInFlight = 2

	maxMessageBytes   = 240 << 10 // of entries in one append message: it travels in one piece
	maxInflightBytes  = 64 << 20  // 64 MiB at 300 ms is 200 MB/s for one follower
	maxInflight       = 512       // messages
	maxUncommitted    = 128 << 20
	maxMailboxBytes   = 64 << 20 // from the network; above, messages are dropped and raft sends again
	maxCommittedBytes = 16 << 20 // handed out to be applied at once
)

// Group is this node's replica of one raft group. Its state is worked on by
// one worker at a time, from the host's pool, and needs no lock; everybody
// else talks to it by posting events.
type Group struct {
	host  *Host
	key   id.Group // the incarnation is zero until a prepared replica is started
	local uint64   // number in the log store
	self  id.Replica
	log   *slog.Logger

	mailbox mailbox

	// Written by the step, read by anyone.
	applied atomic.Uint64               // apply cursor: all entries up to here are committed and durable here
	point   atomic.Pointer[SnapshotRef] // newest snapshot held
	status  atomic.Pointer[GroupStatus]
	member  atomic.Bool // this replica is a voter or a learner, as far as it knows

	files snapshotFiles

	// Owned by the step.
	meta    grouppb.Replica
	genesis Genesis
	rn      *raft.RawNode // nil while prepared
	store   *groupStorage
	state   *state
	now     time.Time
	role    raft.StateType
	lead    uint64
	last    uint64 // last index handed to the log store
	tail    tail
	failure error

	retired   bool // removed from this node
	repairing bool // the snapshot that the log starts after is not usable yet
	hardDirty bool // only the commit index of hard is newer than what was submitted
	stalled   bool // the disk is full: appends wait, raft stands still

	hard     *raftpb.HardState // newest, perhaps not submitted
	appends  []*appending      // submitted to the log store and not durable yet, oldest first
	handed   int               // of appends: with the log store, which answers each
	onAnswer func(error)       // answered, made once

	subs      []*Subscription // in the order in which they came: a replay must not depend on map order
	bySession map[uint64]*Subscription
	byNonce   map[[16]byte]*Subscription
	strays    strays

	*errands // nil between two steps of a replica that rests, most of the time
	*duties  // the same, of one that does not lead

	pace      pace
	echoes    echoes
	lonely    lonely
	heldBy    string // why the leader does not take this replica from a node that leaves; as it said last
	lastError error

	firstborn   int               // ticks for which this replica, of a group just born, asks to lead
	progressAt  time.Time         // when the leader last looked at how far the others are
	leaderless  time.Time         // since when no leader is known; zero: one is
	quorumLost  bool              // for so long that it was said
	statusDirty bool              // something that GroupStatus shows has changed
	shownIndex  uint64            // applied index of the status shown
	shownConf   *raftpb.ConfState // whose members it shows
	ledTerm     uint64            // newest term in which this replica has led
	quietness   quietness
	resting     *resting // nil: it does not; guarded by the host's watch
	heardLead   bool     // since the last tick
	listed      bool     // among the host's, guarded by the host
	tickAt      int      // place among the groups that tick, guarded by the host; -1: it does not
}

// run is the step: it takes what is in the mailbox, works it off and lets
// raft's effects out. The host calls it from one worker at a time.
func (g *Group) run(now time.Time) {
	m := &g.mailbox
	m.mu.Lock()
	events, ticks := m.events, int(m.ticks)
	m.events, m.spare = m.spare[:0], nil
	m.ticks, m.bytes, m.due, m.waiting = 0, 0, false, 0
	m.mu.Unlock()

	g.now = now
	g.unfold()
	g.contain(func() { g.step(events, ticks) })

	worked := g.lead != raft.None && len(g.relaying) == 0 && (len(events) > 0 || ticks == 0)
	bears, well := g.patience()
	well = well && worked
	if ticks > 0 {
		g.heardLead = false
	}
	if g.quietness.quiet {
		g.fold()
	}
	clear(events)
	m.mu.Lock()
	m.busy, m.bears, m.well = worked, bears, well
	if !g.quietness.quiet {
		m.spare = events[:0]
	}
	again := m.wantsStep() && !m.closed
	m.scheduled = again
	m.mu.Unlock()
	if again {
		g.host.enqueue(g)
	}
}

// contain turns a panic of raft into the failure of this replica alone.
func (g *Group) contain(f func()) {
	defer func() {
		if r := recover(); r != nil {
			g.fail(fmt.Errorf("%w: %v", ErrGroupFailed, r))
		}
	}()
	f()
}

func (g *Group) step(events []event, ticks int) {
	for i := range events {
		e := &events[i]
		switch {
		case e.call != nil:
			e.call()
		case e.appended != nil:
			g.onAppended(e.appended.err)
		case e.message != nil:
			g.onMessage(e.message, e.from)
		}
	}
	if g.failure != nil || g.rn == nil {
		g.repair()
		g.settleStopped()
		g.publishStatus(ticks > 0)
		return
	}
	if g.quietness.quiet {
		ticks = 0 // of before it fell quiet
	}
	if !g.stalled {
		for range g.pace.ticks(ticks) {
			g.rn.Tick()
		}
	}
	if ticks > 0 {
		g.onTick()
	}
	g.takeInboxes()
	g.propose()
	g.drainReady()
	g.flushRelayed()
	if ticks > 0 {
		g.beats.tick()
	}
	if ticks > 0 && g.failure == nil {
		g.tickQuiet()
	}
	if g.quietness.quiet && !g.calm() {
		g.awaken(id.Node{})
	}
	g.publishStatus(ticks > 0)
}

// drainReady lets out what raft has decided, until it has nothing more to say.
func (g *Group) drainReady() {
	for g.failure == nil && !g.stalled && g.rn.HasReady() {
		rd := g.rn.Ready()
		if rd.SoftState != nil {
			g.onSoftState(rd.SoftState)
		}
		g.onReadStates(rd.ReadStates)
		var applies []*raftpb.Message
		for _, m := range rd.Messages {
			switch m.GetTo() {
			case raft.LocalAppendThread:
				g.append(m)
			case raft.LocalApplyThread:
				applies = append(applies, m)
			default:
				g.send(m)
			}
		}
		for _, m := range applies {
			g.apply(m)
		}
		if g.failure == nil {
			g.propose()
		}
	}
}

func (g *Group) onSoftState(s *raft.SoftState) {
	changed := s.Lead != g.lead
	if g.role == raft.StateLeader && s.RaftState != raft.StateLeader {
		g.notLeading()
	}
	if s.RaftState == raft.StateLeader {
		g.ledTerm = g.term()
	}
	g.role, g.lead, g.statusDirty = s.RaftState, s.Lead, true
	if s.Lead != raft.None {
		g.haste.led = id.Replica(s.Lead)
	}
	g.leader.onRole(g, s.RaftState == raft.StateLeader)
	if changed && s.Lead != raft.None {
		g.log.Debug("leader changed", "leader", s.Lead, "role", s.RaftState.String())
		for _, sub := range g.subs {
			sub.prop.rewind()
		}
	}
	if changed {
		g.noteLeader()
		g.host.hostedChanged()
	}
}

// fail stops this replica for good; the process and the other groups go on.
func (g *Group) fail(err error) {
	if g.failure != nil {
		return
	}
	g.failure, g.lastError, g.statusDirty = err, err, true
	g.log.Error("replica stopped", "error", err)
	for _, sub := range g.subs {
		sub.report(fmt.Errorf("group %s: %w", g.key, err))
		sub.notify()
	}
	for n, w := range g.waiters {
		delete(g.waiters, n)
		w.done(outcome{}, err)
	}
	if g.role == raft.StateLeader {
		g.notLeading()
	}
	g.stopResting()
	g.host.hostedChanged()
}

// isLeader reports whether this replica leads, as far as it knows.
func (g *Group) isLeader() bool { return g.rn != nil && g.role == raft.StateLeader && g.failure == nil }

// proposeRecord proposes a record of any kind but a batch. A nil error
// promises nothing: whoever needs it to happen proposes again.
func (g *Group) proposeRecord(kind Kind, body protoMessage) error {
	data, err := encodeRecord(kind, body)
	if err != nil {
		return err
	}
	return g.proposeData(data)
}

func (g *Group) proposeData(data []byte) error {
	if g.isLeader() {
		stampClock(data, g.clock())
	}
	if err := g.rn.Propose(data); err != nil {
		return fmt.Errorf("group %s: propose: %w", g.key, err)
	}
	return nil
}

// clock is the leader's clock for the next entry: never behind the log's.
func (g *Group) clock() int64 { return max(g.host.cfg.Wall().UnixNano(), g.state.clock) }
