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
	"github.com/copycat-replication/copycat/wal"
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
	closing   []closing
	waiters   map[[16]byte]waiter
	seen      map[id.Replica]id.Node // where replicas spoke from

	snaps     snapshotKeeper
	leader    leaderDuties
	pace      pace
	haste     haste
	relaying  []relayed
	reads     []*reading
	echoes    echoes
	acked     lastAck
	swap      swap
	lonely    lonely
	outsiders outsiders
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
	listed      bool // among the host's, guarded by the host
	tickAt      int  // place among the groups that tick, guarded by the host; -1: it does not

}

// appending is one append under way, with what raft wants to hear or send
// once it is durable.
type appending struct {
	updates   [1]wal.Update
	responses []*raftpb.Message
	install   *state // the state of the snapshot that the append installs
	adopt     *state // the state of the snapshot that the append adopts
	ref       SnapshotRef
}

// waiter is told when the record with its nonce is applied.
type waiter struct {
	until time.Time
	done  func(outcome, error)
}

// run is the step: it takes what is in the mailbox, works it off and lets
// raft's effects out. The host calls it from one worker at a time.
func (g *Group) run(now time.Time) {
	m := &g.mailbox
	m.mu.Lock()
	events, ticks := m.events, m.ticks
	m.events, m.spare = m.spare[:0], nil
	m.ticks, m.bytes, m.woken = 0, 0, false
	m.mu.Unlock()

	g.now = now
	g.contain(func() { g.step(events, ticks) })

	clear(events)
	m.mu.Lock()
	if !g.quietness.quiet {
		m.spare = events[:0]
	}
	again := (len(m.events) > 0 || m.ticks > 0 || m.woken) && !m.closed
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

// apply moves the apply cursor over committed entries and tells raft so.
func (g *Group) apply(m *raftpb.Message) {
	for _, e := range m.GetEntries() {
		o, err := g.state.apply(e)
		if err == nil {
			g.tail.add(e.GetIndex(), len(e.GetData()))
			g.react(&o)
			err = g.failure
		}
		if err != nil {
			g.applied.Store(g.state.index) // what has been settled is to be delivered
			g.fail(err)
			return
		}
	}
	g.applied.Store(g.state.index)
	g.answerReads()
	for _, sub := range g.subs {
		g.maybeStartDelivery(sub)
		sub.notify()
	}
	for _, r := range m.GetResponses() {
		if err := g.rn.Step(r); err != nil {
			g.log.Debug("raft refused its own response", "type", r.GetType().String(), "error", err)
		}
	}
}

// react does what an applied entry asks of this replica.
func (g *Group) react(o *outcome) {
	switch o.kind {
	case KindBatch:
		g.leader.pull.onBatch(g, o)
		if sub := g.bySession[o.session]; sub != nil {
			g.onOwnBatch(sub, o)
		}
	case KindSessionOpen:
		g.onSessionOpen(o)
	case KindSessionClose, KindSessionExpire:
		if o.ok {
			g.onSessionEnd(o.session)
		}
	case KindSnapshotAnnounce:
		if o.ok {
			g.snaps.onAnnounced(g, o.announce, o.node)
		}
	case KindReplicaIntent, KindIntentAbandon:
		g.answer(o)
	case KindDeleted:
		if o.ok {
			g.onDeleted()
		}
		g.answer(o)
	case KindRebuilt:
		g.onRebuilt(o)
	case KindOptions:
		g.statusDirty = true
		g.answer(o)
	case KindNone:
		if o.conf != nil {
			g.onConfChange(o)
		}
		g.answer(o)
	}
}

func (g *Group) onConfChange(o *outcome) {
	got := g.rn.ApplyConfChange(o.conf)
	if !equalConf(got, g.state.conf) {
		g.fail(fmt.Errorf("%w: membership of raft %v and of the log %v differ", ErrGroupFailed, got, g.state.conf))
		return
	}
	g.statusDirty, g.leader.changing = true, time.Time{}
	g.noteMembers(o)
	g.tellRemoved(o)
	g.log.Info("membership changed", "index", o.index, "voters", got.GetVoters(), "learners", got.GetLearners(), "outgoing", got.GetVotersOutgoing())
	g.host.hostedChanged()
}

// answer tells whoever waits for the record with this nonce.
func (g *Group) answer(o *outcome) {
	if o.nonce == ([16]byte{}) {
		return
	}
	if w, ok := g.waiters[o.nonce]; ok {
		delete(g.waiters, o.nonce)
		w.done(*o, nil)
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
