package raftgroup

import (
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/snapshot"
	"github.com/copycat-replication/copycat/wal"
)

const (
	announceRetry = 2 * time.Second
	fetchRetry    = 2 * time.Second
)

// snapshotKeeper is what a group's step knows of snapshots: the one it holds,
// the one that the log announced and it does not hold yet, the one that raft's
// leader offered because the log before it is gone, and the one that was made
// here and is not announced yet.
type snapshotKeeper struct {
	held     SnapshotRef // named by a durable frame
	previous SnapshotRef
	adopting SnapshotRef // its frame is under way

	wanted    SnapshotRef // announced
	wantedBy  id.Node
	fetching  bool
	nextFetch time.Time

	offered      *raftpb.Message // held back until the file is here
	offeredRef   *SnapshotRef    // what it refers to; nil most of the time, in most groups
	offeredState *state

	made     SnapshotRef // by a subscription here, to be announced
	lastTold time.Time
}

// onAnnounced reacts to a committed announcement: whoever lacks the file fetches it.
func (k *snapshotKeeper) onAnnounced(g *Group, ref SnapshotRef, holder id.Node) {
	if ref.Index > k.held.Index {
		k.want(g, ref)
		k.wantedBy, k.nextFetch = holder, g.now
	}
	if k.made.Index <= ref.Index {
		k.dropMade(g)
	}
	k.fetchWanted(g)
}

// fetchWanted gets the announced snapshot, or finds it here, and adopts it.
func (k *snapshotKeeper) fetchWanted(g *Group) {
	ref := k.wanted
	if ref.Index == 0 || k.fetching || g.now.Before(k.nextFetch) {
		return
	}
	k.fetching = true
	g.host.fetchSnapshot(g, ref, k.wantedBy, func(s *state, err error) {
		k.fetching = false
		k.nextFetch = g.now.Add(fetchRetry)
		if k.wanted != ref {
			return // a newer one was announced meanwhile
		}
		if err != nil {
			g.host.complain(g.log, k.wantedBy, "snapshot not fetched, will try again", "snapshot", ref.Index, "error", err)
			g.lastError = err
			return
		}
		k.adopt(g, ref, s)
		k.want(g, SnapshotRef{})
	})
}

// want replaces what is wanted; its file stays, if it is here, until a frame names it.
func (k *snapshotKeeper) want(g *Group, ref SnapshotRef) {
	if ref.Index != 0 {
		g.files.want(ref)
	}
	if k.wanted.Index != 0 {
		g.files.forget(k.wanted)
	}
	k.wanted = ref
}

// adopt commits a snapshot whose file is complete here: one frame names it,
// and lets go of the log before it, less a tail for followers that lag a little.
func (k *snapshotKeeper) adopt(g *Group, ref SnapshotRef, s *state) {
	if g.failure != nil || ref.Index <= k.held.Index || ref.Index <= k.adopting.Index || ref.Index > g.state.index {
		return
	}
	k.adopting = ref
	g.files.want(ref)
	a := &appending{ref: ref, adopt: s}
	a.updates[0] = wal.Update{Group: g.local, Compact: g.compactTo(ref)}
	meta := g.meta
	meta.Previous, meta.Snapshot = meta.Snapshot, encodeRef(ref)
	data, err := encodeReplica(meta, g.genesis)
	if err != nil {
		g.fail(err)
		return
	}
	g.meta = meta
	a.updates[0].Meta = data
	g.hardDirty = true // the frame of a snapshot carries the hard state too
	g.submit(a)
}

// compactTo says up to where the log may go once ref is held. Nil: nothing yet.
func (g *Group) compactTo(ref SnapshotRef) *wal.Mark {
	to := ref.Index - min(ref.Index, g.host.cfg.CompactionTail)
	to = max(to, min(ref.Index, g.tail.begin()))
	to = g.state.needed(to)
	first, err := g.store.FirstIndex()
	if err != nil || to < first {
		return nil
	}
	term, err := g.store.Term(to)
	if err != nil {
		return nil
	}
	return &wal.Mark{Index: to, Term: term}
}

// adopted runs when the frame is durable.
func (k *snapshotKeeper) adopted(g *Group, a *appending) {
	k.previous, k.held = k.held, a.ref
	g.offerSnapshot(a.ref, a.adopt)
	g.log.Info("snapshot held", "index", a.ref.Index, "commits", a.ref.Commits, "bytes", a.ref.Size)
	g.files.name(k.held, k.previous)
	g.files.forget(a.ref)
	g.host.retainSnapshots(g)
}

// offerSnapshot makes ref what raft sends to followers that need one.
func (g *Group) offerSnapshot(ref SnapshotRef, s *state) {
	offer := grouppb.SnapshotOffer{Ref: encodeRef(ref), Holder: g.host.cfg.Node[:]}
	data, err := offer.Marshal()
	if err != nil {
		g.fail(fmt.Errorf("group %s: encode snapshot offer: %w", g.key, err))
		return
	}
	g.point.Store(&ref)
	g.statusDirty = true
	g.store.offer = &raftpb.Snapshot{
		Data:     data,
		Metadata: &raftpb.SnapshotMetadata{Index: new(ref.Index), Term: new(ref.Term), ConfState: s.conf},
	}
}

// dropMade lets go of what was made here: it was announced, and is wanted by
// now, or another one was instead.
func (k *snapshotKeeper) dropMade(g *Group) {
	if k.made.Index != 0 {
		g.files.forget(k.made)
		k.made = SnapshotRef{}
	}
}

// onMade hears of a snapshot that a subscription of this replica has stored.
func (k *snapshotKeeper) onMade(g *Group, ref SnapshotRef) {
	k.dropMade(g)
	k.made, k.lastTold = ref, time.Time{}
	if ref.Index <= g.state.announced.ref.Index {
		k.dropMade(g) // somebody else's was announced first
		g.host.retainSnapshots(g)
		return
	}
	k.announce(g)
}

// announce proposes what was made here until the log has it, or a newer one.
func (k *snapshotKeeper) announce(g *Group) {
	if k.made.Index == 0 || g.now.Sub(k.lastTold) < announceRetry {
		return
	}
	k.lastTold = g.now
	err := g.proposeRecord(KindSnapshotAnnounce, &grouppb.SnapshotAnnounce{Ref: encodeRef(k.made), Node: g.host.cfg.Node[:]})
	if err != nil && !errors.Is(err, raft.ErrProposalDropped) {
		g.log.Warn("snapshot not announced, will try again", "snapshot", k.made.Index, "error", err)
	}
}

func (k *snapshotKeeper) tick(g *Group) {
	k.announce(g)
	k.fetchWanted(g)
}

// onSnapshotOffer holds raft's snapshot message back until the file that it
// refers to is here and verified: raft must not believe in a state that this
// replica cannot show.
func (g *Group) onSnapshotOffer(m *raftpb.Message, from id.Node) {
	k := &g.snaps
	ref, holder, err := decodeOffer(m)
	if err != nil {
		g.host.complain(g.log, from, "malformed snapshot offer", "from", m.GetFrom(), "error", err)
		return
	}
	if ref.Index <= g.state.index {
		g.stepSnapshot(m) // nothing to install; raft answers with where it is
		return
	}
	if k.offered != nil {
		if *k.offeredRef == ref {
			k.offered = m
		}
		return
	}
	k.offered, k.offeredRef = m, &ref
	g.files.want(ref)
	g.host.fetchSnapshot(g, ref, holder, func(s *state, err error) {
		defer g.files.forget(ref)
		m := k.offered
		k.offered, k.offeredRef = nil, nil
		if m == nil || g.rn == nil || g.failure != nil {
			return
		}
		if err == nil && g.stalled {
			// Raft would take it, and the append could not be made. The file
			// stays: the next offer finds it.
			err = g.lastError
		}
		if err == nil {
			err = checkOffer(m, s)
		}
		if err != nil {
			g.host.complain(g.log, holder, "offered snapshot not taken", "snapshot", ref.Index, "error", err)
			g.lastError = err
			g.reportSnapshot(id.Replica(m.GetFrom()), ref.Index, false)
			return
		}
		k.offeredState, k.offeredRef = s, &ref
		g.stepSnapshot(m)
		g.drainReady()
		k.offeredState, k.offeredRef = nil, nil
	})
}

// checkOffer refuses an offer that names another membership than the file: raft
// takes the one, the applied state the other, and the replica would stop at the
// next change.
func checkOffer(m *raftpb.Message, s *state) error {
	if conf := m.GetSnapshot().GetMetadata().GetConfState(); !equalConf(conf, s.conf) {
		return fmt.Errorf("%w: snapshot offered with the membership %v, its file says %v", errBadMessage, conf, s.conf)
	}
	return nil
}

func (g *Group) stepSnapshot(m *raftpb.Message) {
	if err := g.rn.Step(m); err != nil {
		g.log.Debug("snapshot refused", "error", err)
	}
}

func decodeOffer(m *raftpb.Message) (SnapshotRef, id.Node, error) {
	var offer grouppb.SnapshotOffer
	if err := offer.Unmarshal(m.GetSnapshot().GetData()); err != nil {
		return SnapshotRef{}, id.Node{}, fmt.Errorf("%w: %w", errBadMessage, err)
	}
	ref, err := decodeRef(offer.Ref)
	if err != nil {
		return ref, id.Node{}, err
	}
	holder, err := id.NodeFromBytes(offer.Holder)
	if err != nil {
		return ref, holder, err
	}
	md := m.GetSnapshot().GetMetadata()
	if ref.Index != md.GetIndex() || ref.Term != md.GetTerm() {
		return ref, holder, fmt.Errorf("%w: snapshot %d/%d offered as %d/%d", errBadMessage, ref.Index, ref.Term, md.GetIndex(), md.GetTerm())
	}
	return ref, holder, nil
}

// installUpdate turns the snapshot that raft accepted into the frame that
// makes it so: snapshot, log restarting after it, hard state, all in one.
func (g *Group) installUpdate(a *appending, snap *raftpb.Snapshot) error {
	k := &g.snaps
	if k.offeredState == nil || k.offeredRef.Index != snap.GetMetadata().GetIndex() {
		return fmt.Errorf("%w: raft accepted snapshot %d, which was not fetched", ErrGroupFailed, snap.GetMetadata().GetIndex())
	}
	meta := g.meta
	meta.Snapshot, meta.Previous = encodeRef(*k.offeredRef), nil
	data, err := encodeReplica(meta, g.genesis)
	if err != nil {
		return err
	}
	g.meta = meta
	a.updates[0].Meta = data
	a.updates[0].Compact = &wal.Mark{Index: k.offeredRef.Index, Term: k.offeredRef.Term}
	a.install, a.ref = k.offeredState, *k.offeredRef
	k.adopting = a.ref // an older one that arrives meanwhile must not follow it
	g.files.want(a.ref)
	g.hardDirty = true
	if len(a.updates[0].Entries) == 0 {
		g.last = k.offeredRef.Index
	}
	return nil
}

// installed runs when the frame of an offered snapshot is durable: the applied
// state jumps, and everyone who hangs on it follows.
func (g *Group) installed(a *appending) {
	g.state = a.install
	g.statusDirty = true
	g.snaps.held, g.snaps.previous = a.ref, SnapshotRef{}
	g.offerSnapshot(a.ref, a.install)
	g.log.Info("snapshot installed", "index", a.ref.Index, "commits", a.ref.Commits)
	g.files.name(a.ref, SnapshotRef{})
	g.files.forget(a.ref)
	g.host.retainSnapshots(g)
	g.reconcileAll()
	g.applied.Store(g.state.index)
	for _, sub := range g.subs {
		sub.notify()
	}
	g.host.hostedChanged()
}

// reportSnapshot tells the leader what became of its offer: without it, raft
// on the other side waits for good.
func (g *Group) reportSnapshot(to id.Replica, index uint64, ok bool) {
	node, known := g.nodeOf(to)
	if !known {
		return
	}
	r := grouppb.SnapshotReport{Index: index, Ok: ok}
	body, err := r.Marshal()
	if err != nil {
		return
	}
	payload := append([]byte{wireSnapshotReport}, body...)
	if err := g.host.net.Send(node, Message{Group: g.key, From: g.self, To: to, Payload: payload, Urgent: true}); err != nil {
		g.log.Debug("snapshot report not sent", "error", err)
	}
}

func (g *Group) onSnapshotReport(from id.Replica, r *grouppb.SnapshotReport) {
	if !g.isLeader() {
		return
	}
	status := raft.SnapshotFinish
	if !r.Ok {
		status = raft.SnapshotFailure
	}
	g.rn.ReportSnapshot(uint64(from), status)
}

// writeSnapshot stores what a provider returned, with the state of the cursor
// that stands at the make. It runs on the consumer's goroutine, and waits now and
// then if it is to be paced.
func (h *Host) writeSnapshot(g *Group, s *state, maker uint64, data []byte, paced bool) (SnapshotRef, error) {
	encoded, err := s.encode()
	if err != nil {
		return SnapshotRef{}, err
	}
	w, err := h.snaps.Create(g.local, snapshot.Head{
		Structure: g.key.Structure, Incarnation: g.key.Incarnation,
		Index: s.index, Term: s.term, Commits: s.commits, Clock: s.clock, Maker: maker, State: encoded,
	})
	if err != nil {
		return SnapshotRef{}, err
	}
	for len(data) > 0 {
		piece := data[:min(len(data), makingPiece)]
		if paced {
			err = h.paceMaking(len(piece))
		}
		if err == nil {
			_, err = w.Write(piece)
		}
		if err != nil {
			w.Abort()
			return SnapshotRef{}, err
		}
		data = data[len(piece):]
	}
	return g.files.commit(w)
}
