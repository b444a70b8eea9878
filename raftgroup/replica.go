package raftgroup

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/snapshot"
	"github.com/copycat-replication/copycat/wal"
)

// The versions of the replica record. It is written as the first that can say
// what it says, so that an older binary reads what it can.
const (
	firstVersion      = 1
	supersededVersion = 2
	replicaVersion    = supersededVersion
)

// Token names one attempt at a birth.
type Token [16]byte

// Genesis is what every replica of a group starts from: the same everywhere.
type Genesis struct {
	Group   id.Group // the incarnation is zero until the birth is decided
	Members map[id.Replica]id.Node
	Options Options
	Token   Token
}

func (gn Genesis) encode() *grouppb.Genesis {
	return &grouppb.Genesis{
		Structure: gn.Group.Structure[:], Birth: gn.Group.Incarnation.Birth, Recovery: gn.Group.Incarnation.Recovery,
		Members: encodeMembers(gn.Members), Options: gn.Options.withDefaults().Encode(), Token: gn.Token[:],
	}
}

func decodeGenesis(m *grouppb.Genesis) (Genesis, error) {
	if m == nil {
		return Genesis{}, fmt.Errorf("%w: no genesis", ErrMalformedEntry)
	}
	s, err := id.StructureFromBytes(m.Structure)
	if err != nil {
		return Genesis{}, err
	}
	members, err := decodeMembers(m.Members)
	if err != nil {
		return Genesis{}, err
	}
	gn := Genesis{
		Group:   id.Group{Structure: s, Incarnation: id.Incarnation{Birth: m.Birth, Recovery: m.Recovery}},
		Members: members, Options: decodeOptions(m.Options),
	}
	copy(gn.Token[:], m.Token)
	return gn, nil
}

// encodeReplica encodes a replica record. A Group keeps its genesis in one form
// alone, since there are thousands: its record comes without.
func encodeReplica(meta grouppb.Replica, genesis Genesis) ([]byte, error) {
	meta.Genesis = genesis.encode()
	data, err := meta.Marshal()
	if err != nil {
		return nil, fmt.Errorf("group %s: encode replica: %w", genesis.Group, err)
	}
	return data, nil
}

// open makes the group of a replica that the log store holds.
func (h *Host) open(st wal.GroupState) error {
	_, err := h.openMended(st, nil)
	return err
}

// openMended is open for a replica of which some entries were fetched again. It
// returns no group for one that is kept and not used.
func (h *Host) openMended(st wal.GroupState, entries *mended) (*Group, error) {
	var meta grouppb.Replica
	if err := meta.Unmarshal(st.Meta); err != nil {
		return nil, fmt.Errorf("local group %d: replica record: %w", st.Group, err)
	}
	if meta.Version > replicaVersion {
		return nil, fmt.Errorf("%w: local group %d: replica record of format %d", ErrNewerFormat, st.Group, meta.Version)
	}
	genesis, err := decodeGenesis(meta.Genesis)
	if err != nil {
		return nil, fmt.Errorf("local group %d: replica record: %w", st.Group, err)
	}
	if meta.Phase == grouppb.Replica_SUPERSEDED {
		h.keep(genesis.Group)
		return nil, nil
	}
	g := h.newGroup(st.Group, meta, genesis)
	if entries != nil {
		entries.mu.Lock()
		g.store.mended.entries, g.store.mended.bytes = entries.entries, entries.bytes
		entries.mu.Unlock()
	}
	if meta.Phase == grouppb.Replica_STARTED {
		err := g.start(st, genesis)
		if errors.Is(err, ErrNewerFormat) {
			return nil, err
		}
		if err != nil { // this one stands; the others run
			g.fail(err)
			g.publishStatus(false)
		}
	}
	h.register(g)
	return g, nil
}

// refill gets new replicas in place of those that the log store has set aside:
// they cannot be proven current, so they neither vote nor serve, and their
// ReplicaIDs are not used again. What is left of them stays on disk.
func (h *Host) refill() {
	for _, s := range h.log.Suspects() {
		var meta grouppb.Replica
		genesis, err := Genesis{}, meta.Unmarshal(s.Meta)
		if err == nil {
			genesis, err = decodeGenesis(meta.Genesis)
		}
		if err != nil {
			h.cfg.Logger.Error("replica set aside, and not known which", "local", s.Group, "why", s.Why, "error", err)
			continue
		}
		h.cfg.Logger.Error("replica set aside: its log cannot be proven whole; getting a new one",
			"group", genesis.Group.String(), "replica", meta.Replica, "why", s.Why, "file", s.File, "offset", s.Offset)
		if meta.Phase != grouppb.Replica_STARTED {
			continue
		}
		if err := h.Join(genesis.Group.Structure, id.Node{}); err != nil {
			h.cfg.Logger.Error("no new replica", "group", genesis.Group.String(), "error", err)
		}
	}
}

func (h *Host) newGroup(local uint64, meta grouppb.Replica, genesis Genesis) *Group {
	meta.Genesis = nil
	genesis.Members = h.members.Share(genesis.Members)
	g := &Group{
		host: h, key: genesis.Group, local: local, self: id.Replica(meta.Replica), meta: meta, genesis: genesis,
		store:  &groupStorage{log: h.log, group: local, mended: &mended{}},
		hard:   &raftpb.HardState{},
		tail:   tail{limit: h.cfg.CompactionBytes},
		now:    h.cfg.Clock.Now(),
		tickAt: -1,
	}
	g.unfold()
	g.onAnswer = g.answered
	g.log = h.cfg.Logger.With("group", g.key.String(), "replica", uint64(g.self))
	g.store.mended.wanted = g.mendLater
	held, err := decodeRef(meta.Snapshot)
	previous, perr := decodeRef(meta.Previous)
	if g.files.name(held, previous); err != nil || perr != nil {
		g.files.end() // start says what is wrong with the record
	}
	g.status.Store(&GroupStatus{Group: g.key, Replica: g.self, Role: "starting"}) // listed later, which is news
	return g
}

// start begins raft on a replica: from its snapshot if it has one, from the
// genesis otherwise, and over the log behind it.
func (g *Group) start(st wal.GroupState, genesis Genesis) error {
	genesis.Members = g.host.members.Share(genesis.Members)
	g.host.mu.Lock() // a prepared replica is known to others, by its token
	g.genesis, g.key = genesis, genesis.Group
	g.host.mu.Unlock()
	g.log = g.host.cfg.Logger.With("group", g.key.String(), "replica", uint64(g.self))
	ref, err := decodeRef(g.meta.Snapshot)
	if err != nil {
		return fmt.Errorf("group %s: replica record: %w", g.key, err)
	}
	if ref.Index != 0 {
		s, err := g.host.snapshotState(g, ref)
		if err != nil {
			// The log before it is gone, so without the file there is no state.
			// The replica is kept back, with what it has, until it is fetched.
			g.waitForSnapshot(ref, err)
			return nil
		}
		g.state = s
		g.snaps.held = ref
		if g.snaps.previous, err = decodeRef(g.meta.Previous); err != nil {
			return fmt.Errorf("group %s: replica record: %w", g.key, err)
		}
	} else {
		g.state = newState(g.key, genesis.Members, genesis.Options)
	}
	return g.startRaft(st)
}

func (g *Group) startRaft(st wal.GroupState) (err error) {
	defer func() { // raft panics over a log that contradicts itself
		if r := recover(); r != nil {
			g.rn, err = nil, fmt.Errorf("group %s: start raft: %w: %v", g.key, ErrGroupFailed, r)
		}
	}()
	hard := st.HardState
	if hard == nil {
		hard = &raftpb.HardState{}
	}
	if hard.GetCommit() < g.state.index { // what a snapshot holds is committed
		hard = &raftpb.HardState{Term: new(max(hard.GetTerm(), g.state.term)), Vote: new(hard.GetVote()), Commit: new(g.state.index)}
	}
	g.hard, g.last = hard, st.LastIndex
	g.store.hard, g.store.conf = hard, g.state.conf
	if g.snaps.held.Index != 0 {
		g.files.name(g.snaps.held, g.snaps.previous)
		g.offerSnapshot(g.snaps.held, g.state)
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID:                        uint64(g.self),
		ElectionTick:              g.host.cfg.ElectionTicks,
		HeartbeatTick:             g.host.cfg.HeartbeatTicks,
		Storage:                   g.store,
		Applied:                   g.state.index,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             maxMessageBytes,
		MaxCommittedSizePerReady:  maxCommittedBytes,
		MaxUncommittedEntriesSize: maxUncommitted,
		MaxInflightMsgs:           maxInflight,
		MaxInflightBytes:          maxInflightBytes,
		CheckQuorum:               true,
		PreVote:                   true,
		StepDownOnRemoval:         true,
		Logger:                    raftLogger{g.log},
	})
	if err != nil {
		return fmt.Errorf("group %s: start raft: %w", g.key, err)
	}
	g.rn = rn
	g.store.hard, g.store.conf = nil, nil // raft has asked for them
	g.applied.Store(g.state.index)
	if voters := g.state.conf.GetVoters(); len(voters) == 1 && voters[0] == uint64(g.self) && !isJoint(g.state.conf) {
		// Alone, there is nobody to wait for; but raft does not campaign while
		// there are membership changes to be applied, so it may take two tries.
		g.firstborn = firstbornTicks
		if err := rn.Campaign(); err != nil {
			return fmt.Errorf("group %s: campaign: %w", g.key, err)
		}
	}
	g.statusDirty = true
	g.publishStatus(false)
	g.wake()
	return nil
}

// firstbornTicks is how long the first replica of a new group asks to lead: by
// then its brothers have been started, or are not to be waited for.
const firstbornTicks = 10

// leadFirst has one replica of a group that was just born ask for the lead at
// once, instead of everybody waiting out an election time-out.
func (g *Group) leadFirst() {
	if g.firstborn == 0 {
		return
	}
	g.firstborn--
	if g.lead != raft.None || g.role == raft.StateCandidate || g.firstborn%2 == 0 {
		return // every other tick: an answer takes a round trip
	}
	if err := g.rn.Campaign(); err != nil {
		g.log.Debug("does not ask to lead", "error", err)
	}
}

// waitForSnapshot keeps a replica back whose snapshot file is damaged or gone,
// until another holder has given it again.
func (g *Group) waitForSnapshot(ref SnapshotRef, cause error) {
	g.log.Error("snapshot of this replica is not usable; fetching it from another", "snapshot", ref.Index, "error", cause)
	g.lastError = cause
	var damage *snapshot.DamageError
	if errors.As(cause, &damage) {
		if err := g.host.snaps.SetAside(g.local, ref); err != nil {
			g.log.Error("damaged snapshot not set aside", "snapshot", ref.Index, "error", err)
		}
	}
	g.repairing, g.statusDirty = true, true
	g.publishStatus(false)
}

// repair is called with every tick while a replica waits for its snapshot.
func (g *Group) repair() {
	if !g.repairing || g.snaps.fetching || g.now.Before(g.snaps.nextFetch) {
		return
	}
	ref, err := decodeRef(g.meta.Snapshot)
	if err != nil {
		g.fail(err)
		return
	}
	g.snaps.fetching = true
	g.host.fetchSnapshot(g, ref, id.Node{}, func(s *state, err error) {
		g.snaps.fetching, g.snaps.nextFetch = false, g.now.Add(fetchRetry)
		if err != nil {
			g.lastError = err
			g.snaps.fetching = true
			g.host.repairBehind(g, ref)
			return
		}
		st, err := g.host.log.State(g.local)
		if err == nil {
			g.repairing, g.state, g.snaps.held = false, s, ref
			err = g.startRaft(st)
		}
		if err != nil {
			g.fail(err)
			return
		}
		for _, sub := range g.subs {
			g.takeOn(sub)
			sub.notify()
		}
		g.host.hostedChanged()
	})
}

// create makes a replica durable and registers it. A replica that was seeded
// with a snapshot starts behind it.
func (h *Host) create(ctx context.Context, meta grouppb.Replica, local *uint64, seed *SnapshotRef) (*Group, error) {
	genesis, err := decodeGenesis(meta.Genesis)
	if err != nil {
		return nil, err
	}
	if local == nil {
		n, err := h.log.NewGroup()
		if err != nil {
			return nil, fmt.Errorf("group %s: new replica: %w", genesis.Group, err)
		}
		local = &n
	}
	meta.Version, meta.Created = firstVersion, h.cfg.Clock.Now().UnixNano()
	u := wal.Update{Group: *local}
	if seed != nil {
		meta.Snapshot = encodeRef(*seed)
		u.Compact = &wal.Mark{Index: seed.Index, Term: seed.Term}
		u.HardState = &raftpb.HardState{Term: new(seed.Term), Vote: new(uint64(0)), Commit: new(seed.Index)}
	}
	if u.Meta, err = encodeReplica(meta, genesis); err != nil {
		return nil, err
	}
	if err := h.write(u); err != nil {
		return nil, fmt.Errorf("group %s: new replica: %w", genesis.Group, err)
	}
	g := h.newGroup(*local, meta, genesis)
	if meta.Phase == grouppb.Replica_STARTED {
		st, err := h.log.State(*local)
		if err != nil {
			return nil, fmt.Errorf("group %s: new replica: %w", genesis.Group, err)
		}
		if err := g.start(st, genesis); err != nil {
			return nil, err
		}
	}
	h.register(g)
	return g, nil
}

// write submits one update and waits until it is durable. There is no giving up
// in between: a replica that is durable and that nobody knows of would come back
// at the next start, perhaps beside another one made in its place. The log store
// answers each update, also while it closes.
func (h *Host) write(u wal.Update) error {
	written := newPromise[struct{}]()
	h.log.Submit([]wal.Update{u}, func(err error) { written.keep(struct{}{}, err) })
	_, err := written.await(context.Background(), h.tasks)
	return err
}

// remove takes a replica off this node: its log, its snapshots, its place in
// the host. Its local number is never used again. keep, if not nil, is asked in
// the replica's last step, and may still say no: then nothing happens and false
// is returned. Subscriptions that hang on the replica wait for another one.
// True with an error says that it is gone, and that something of its log or its
// files is left for now.
func (h *Host) remove(ctx context.Context, g *Group, keep func() bool) (bool, error) {
	retired, err := inStep(ctx, g, func(reply func(bool, error)) {
		if keep != nil && keep() {
			reply(false, nil)
			return
		}
		if !h.takeOff(g, false) {
			reply(false, ErrClosed)
			return
		}
		reply(true, nil)
	})
	switch {
	case errors.Is(err, ErrClosed): // retired before
		if now := h.runsAgain(g); now != nil && keep == nil {
			return h.remove(ctx, now, nil)
		}
		if !h.mayErase(g) {
			return true, nil
		}
	case err != nil || !retired:
		return false, err
	}
	return true, h.erase(g)
}
