package raftgroup

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/wal"
)

// How a group is rebuilt from one replica when its quorum is lost for good.
//
// An operator does it, on the stopped node's log: one frame that holds the new
// incarnation, a higher term, and one more entry, KindRebuilt, behind all that
// the replica has, with everything committed. What that entry means is a pure
// function of the log like everything else: the replica is the only member from
// there on, and all sessions have ended. So every replica that is made later,
// and every delivery cursor, walks over it alike, and a crash before or after
// the frame leaves the old group or the new one.
//
// What the replica had and nobody had committed is committed by it: it may have
// been acknowledged by the ones that are lost. What only the lost ones had is lost.
//
// The old members cannot be a second history: their frames name the old
// incarnation, and are refused. A node that learns, from a node that has a
// replica of the new incarnation, that there is one, sets its own aside
// (Supersede): it is kept for the operator and not used any more.

// ErrNotRebuildable says that a group cannot be rebuilt from a replica.
var ErrNotRebuildable = errors.New("cannot be rebuilt from this replica")

// Rebuild is one rebuilding, as the log tells of it.
type Rebuild struct {
	From, To id.Incarnation
	Replica  id.Replica
	Node     id.Node
	At       time.Time
	Reason   string
}

// recoveryTag is how many of the low bits of a recovery number are random; the
// ones above count. So if two operators rebuild the same group from two
// replicas and know nothing of each other, there are two incarnations, of which
// the lesser gives way, and not two histories under one name.
const recoveryTag = 16

// nextRecovery is the recovery number after another.
func nextRecovery(old uint32, random io.Reader) (uint32, error) {
	var tag [2]byte
	if _, err := io.ReadFull(random, tag[:]); err != nil {
		return 0, fmt.Errorf("recovery number: %w", err)
	}
	count := old >> recoveryTag
	if count == 1<<(32-recoveryTag)-1 {
		return 0, fmt.Errorf("%w: there is no recovery number beyond %d", ErrNotRebuildable, count)
	}
	return (count+1)<<recoveryTag | uint32(tag[0])<<8 | uint32(tag[1]), nil
}

// RebuildOrder is what an operator decides of a rebuilding.
type RebuildOrder struct {
	Node   id.Node // in whose log store the replica is
	At     time.Time
	Reason string
	// Commit, if it is not nil, is committed as a change right behind, by a
	// session of its own.
	Commit []byte
	// Beyond is the greatest recovery number of the group, with the same birth,
	// that is known of from anywhere: the new life is later than it, and than the
	// replica's own. Of two lives the later one wins, so it is to be complete.
	Beyond uint32
	// Superseded also allows a replica that was set aside because the group had
	// been rebuilt from another one, of which nothing may be left by now.
	Superseded bool
}

// PlanRebuild makes the one update that rebuilds a group from a replica, and
// tells what it will have been. st is the replica's state in the log store, and
// lastTerm the term of its last entry. The update is to be submitted to the same
// log store, while no host uses it.
func PlanRebuild(st wal.GroupState, lastTerm uint64, how RebuildOrder, random io.Reader) (wal.Update, Rebuild, error) {
	var meta grouppb.Replica
	if err := meta.Unmarshal(st.Meta); err != nil {
		return wal.Update{}, Rebuild{}, fmt.Errorf("%w: replica record: %w", ErrNotRebuildable, err)
	}
	if meta.Version > replicaVersion {
		return wal.Update{}, Rebuild{}, fmt.Errorf("%w: replica record of format %d", ErrNewerFormat, meta.Version)
	}
	genesis, err := decodeGenesis(meta.Genesis)
	if err != nil {
		return wal.Update{}, Rebuild{}, fmt.Errorf("%w: replica record: %w", ErrNotRebuildable, err)
	}
	if how.Superseded && meta.Phase == grouppb.Replica_SUPERSEDED {
		meta.Version, meta.Phase = firstVersion, grouppb.Replica_STARTED
	}
	if meta.Phase != grouppb.Replica_STARTED {
		return wal.Update{}, Rebuild{}, fmt.Errorf("%w: group %s: it was %s", ErrNotRebuildable, genesis.Group, phaseName(meta.Phase))
	}
	if st.LastIndex == 0 {
		return wal.Update{}, Rebuild{}, fmt.Errorf("%w: group %s: it has no log", ErrNotRebuildable, genesis.Group)
	}
	r := Rebuild{From: genesis.Group.Incarnation, To: genesis.Group.Incarnation, Replica: id.Replica(meta.Replica), Node: how.Node, At: how.At, Reason: how.Reason}
	if r.To.Recovery, err = nextRecovery(max(r.From.Recovery, how.Beyond), random); err != nil {
		return wal.Update{}, Rebuild{}, fmt.Errorf("group %s: %w", genesis.Group, err)
	}
	genesis.Group.Incarnation = r.To
	meta.Genesis = genesis.encode()
	u := wal.Update{Group: st.Group}
	if u.Meta, err = meta.Marshal(); err != nil {
		return wal.Update{}, Rebuild{}, fmt.Errorf("group %s: encode replica: %w", genesis.Group, err)
	}
	term := max(st.HardState.GetTerm(), lastTerm) + 1
	add := func(data []byte, err error) error {
		if err != nil {
			return err
		}
		stampClock(data, how.At.UnixNano())
		index := st.LastIndex + 1 + uint64(len(u.Entries))
		u.Entries = append(u.Entries, &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: new(term), Index: new(index), Data: data})
		return nil
	}
	err = add(encodeRecord(KindRebuilt, &grouppb.Rebuilt{
		Recovery: r.To.Recovery, OldRecovery: r.From.Recovery, Replica: meta.Replica, Node: how.Node[:], At: how.At.UnixNano(), Reason: how.Reason,
	}))
	if err == nil && how.Commit != nil {
		err = addCommit(st.LastIndex+2, how.Node, how.Commit, random, add)
	}
	if err != nil {
		return wal.Update{}, Rebuild{}, fmt.Errorf("group %s: %w", genesis.Group, err)
	}
	u.HardState = &raftpb.HardState{Term: new(term), Vote: new(uint64(0)), Commit: new(st.LastIndex + uint64(len(u.Entries)))}
	return u, r, nil
}

// addCommit adds a session that proposes one change, and ends.
func addCommit(index uint64, node id.Node, commit []byte, random io.Reader, add func([]byte, error) error) error {
	nonce := make([]byte, 16)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return err
	}
	if err := add(encodeRecord(KindSessionOpen, &grouppb.SessionOpen{Nonce: nonce, Node: node[:]})); err != nil {
		return err
	}
	if err := add(encodeBatch(nil, index, 1, 0, []item{{payload: commit}}), nil); err != nil {
		return err
	}
	return add(encodeRecord(KindSessionClose, &grouppb.SessionClose{Session: index}))
}

// applyRebuilt makes one replica the only member.
func (s *state) applyRebuilt(data []byte, o *outcome) error {
	var m grouppb.Rebuilt
	if err := decodeRecord(data, &m); err != nil {
		return err
	}
	node, err := id.NodeFromBytes(m.Node)
	if err != nil || m.Replica == 0 {
		return fmt.Errorf("%w: rebuilt around replica %d: %w", ErrMalformedEntry, m.Replica, err)
	}
	o.node, o.ok = node, true
	for _, live := range s.sessions.sorted() {
		if s.sessions.end(live.id) {
			o.ended = append(o.ended, live.id)
		}
	}
	for _, cc := range toSole(s.conf, m.Replica) {
		next, err := applyConfChange(s.conf, cc)
		if err != nil {
			return fmt.Errorf("%w: rebuilt around replica %d: %w", ErrMalformedEntry, m.Replica, err)
		}
		s.conf = next
		o.rebuilt = append(o.rebuilt, cc)
	}
	s.members = map[id.Replica]id.Node{id.Replica(m.Replica): node}
	s.next = max(s.next, id.Replica(m.Replica)+1)
	s.intents, s.joining, s.request = nil, nil, nil
	return nil
}

// toSole says how a membership becomes that of one voter, in steps that raft
// takes: out of a joint one, into another, and out again.
func toSole(conf *raftpb.ConfState, sole uint64) []*raftpb.ConfChangeV2 {
	var out []*raftpb.ConfChangeV2
	if isJoint(conf) {
		out = append(out, &raftpb.ConfChangeV2{})
	}
	change := &raftpb.ConfChangeV2{Transition: raftpb.ConfChangeTransitionJointExplicit.Enum()}
	single := func(t raftpb.ConfChangeType, r uint64) {
		change.Changes = append(change.Changes, &raftpb.ConfChangeSingle{Type: t.Enum(), NodeId: new(r)})
	}
	if !slices.Contains(conf.GetVoters(), sole) {
		single(raftpb.ConfChangeAddNode, sole)
	}
	others := slices.Concat(conf.GetVoters(), conf.GetLearners(), conf.GetLearnersNext())
	slices.Sort(others)
	for _, r := range slices.Compact(others) {
		if r != sole {
			single(raftpb.ConfChangeRemoveNode, r)
		}
	}
	if len(change.Changes) > 0 {
		out = append(out, change, &raftpb.ConfChangeV2{})
	}
	return out
}

// onRebuilt follows a rebuilding that stands in the log.
func (g *Group) onRebuilt(o *outcome) {
	for _, session := range o.ended {
		g.onSessionEnd(session)
	}
	got := g.state.conf
	for _, cc := range o.rebuilt {
		got = g.rn.ApplyConfChange(cc)
	}
	if !equalConf(got, g.state.conf) {
		g.fail(fmt.Errorf("%w: membership of raft %v and of the log %v differ", ErrGroupFailed, got, g.state.conf))
		return
	}
	g.snaps.want(g, SnapshotRef{}) // who has what was announced may be lost
	g.statusDirty, g.leader.changing = true, time.Time{}
	g.log.Warn("group was rebuilt from one replica", "index", o.index, "node", o.node.String())
	g.host.hostedChanged()
}

// The phases of a replica, as ReplicaRecord names them.
const (
	PhasePrepared   = "prepared"   // its birth is not decided
	PhaseStarted    = "started"    // it is used
	PhaseRemoved    = "removed"    // it was removed, and its files are going
	PhaseSuperseded = "superseded" // its group was rebuilt from another one: kept, and not used
)

func phaseName(p grouppb.Replica_Phase) string {
	switch p {
	case grouppb.Replica_PREPARED:
		return PhasePrepared
	case grouppb.Replica_STARTED:
		return PhaseStarted
	case grouppb.Replica_REMOVED:
		return PhaseRemoved
	case grouppb.Replica_SUPERSEDED:
		return PhaseSuperseded
	}
	return fmt.Sprintf("phase %d", int32(p))
}
