package raftgroup

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// maxIntents bounds the ReplicaIDs that were given out and not yet used; the
// oldest is forgotten, which abandons it.
const maxIntents = 64

// state is what the log says, as of one index: the applied state of a group.
// It is a pure function of the log, the same on every replica, and never
// looks into a payload. The apply cursor owns one, each delivery cursor owns
// another that runs behind; a snapshot holds the one of its maker's cursor, so
// that membership and sessions in it are those of its own index and not of a
// later one.
type state struct {
	group   id.Group
	index   uint64 // raft index of the last entry applied
	term    uint64
	commits uint64 // N: proposals that counted so far
	bytes   uint64 // their payload bytes
	clock   int64  // leader's clock, never decreasing

	sessions sessionTable
	baseSet  bool
	conf     *raftpb.ConfState
	members  map[id.Replica]id.Node // shared: a change makes another one
	next     id.Replica             // next ReplicaID to give out
	intents  []intent               // oldest first
	joining  []joining              // oldest first

	announced announcement
	request   *request // the snapshot that is due and not yet announced
	options   Options
	deleted   bool
}

// intent is a ReplicaID that was given out for a node and is not yet a member.
type intent struct {
	replica id.Replica
	nonce   [16]byte
	node    id.Node
	clock   int64
	seed    uint64 // index of the snapshot that it starts behind
}

// joining is a member that is so new that it may still need the log behind
// the snapshot that it was seeded with.
type joining struct {
	replica id.Replica
	seed    uint64
	clock   int64 // when it became one
}

// announcement is the newest snapshot that the log knows.
type announcement struct {
	ref   SnapshotRef
	node  id.Node // its first holder
	bytes uint64  // state.bytes as of the snapshot
}

// request is a snapshot that the leader asked a maker for.
type request struct {
	index   uint64 // of the entry that asked: the snapshot's place in the log
	commits uint64
	bytes   uint64
	session uint64
	attempt uint32
	clock   int64
}

// outcome is what applying one entry meant. Only the fields of its kind are set.
type outcome struct {
	kind  Kind
	index uint64

	batch   batch
	verdict verdict
	from    uint64 // first number of the batch that counts
	firstN  uint64 // N of the first commit that this entry delivers

	session  uint64 // opened, closed or expired session; session of a base; maker of a request
	nonce    [16]byte
	node     id.Node
	ok       bool // the record took effect
	repeated bool // the session that it opens lives already
	ended    []uint64

	base     []byte
	intent   id.Replica
	conf     *raftpb.ConfChangeV2 // to be handed to raft; nil if refused
	changed  bool                 // membership changed
	removed  []memberAt           // by it, in order
	announce SnapshotRef
	rebuilt  []*raftpb.ConfChangeV2 // how raft gets to the membership of a rebuilt group
}

// memberAt is a member and where it is.
type memberAt struct {
	replica id.Replica
	node    id.Node
}

// newState is the state before the first entry. It shares members, which nobody
// changes from then on.
func newState(group id.Group, members map[id.Replica]id.Node, opt Options) *state {
	s := &state{group: group, members: members, next: 1, options: opt.withDefaults(), conf: &raftpb.ConfState{AutoLeave: new(bool)}}
	for r := range members {
		s.conf.Voters = append(s.conf.Voters, uint64(r))
		s.next = max(s.next, r+1)
	}
	slices.Sort(s.conf.Voters)
	return s
}

// apply moves the state over one committed entry, in log order without holes.
// An error means that this binary cannot read the entry: the replica must stop
// here, since whatever comes after would be decided wrongly.
func (s *state) apply(e *raftpb.Entry) (outcome, error) {
	if e.GetIndex() != s.index+1 {
		return outcome{}, fmt.Errorf("group %s: apply of entry %d after %d", s.group, e.GetIndex(), s.index)
	}
	o := outcome{index: e.GetIndex()}
	var err error
	if e.GetType() == raftpb.EntryNormal {
		err = s.applyNormal(e.GetData(), &o)
	} else {
		err = s.applyConf(e, &o)
	}
	if err != nil {
		return outcome{}, fmt.Errorf("group %s: entry %d: %w", s.group, e.GetIndex(), err)
	}
	s.index, s.term = e.GetIndex(), e.GetTerm()
	return o, nil
}

func (s *state) applyNormal(data []byte, o *outcome) error {
	kind, clock, err := entryKind(data)
	if err != nil {
		return err
	}
	s.clock = max(s.clock, clock)
	o.kind = kind
	switch kind {
	case KindBatch:
		return s.applyBatch(data, o)
	case KindSessionOpen, KindSessionClose, KindSessionExpire:
		return s.applySession(kind, data, o)
	case KindBase:
		return s.applyBase(data, o)
	case KindSnapshotRequest, KindSnapshotAnnounce:
		return s.applySnapshot(kind, data, o)
	case KindReplicaIntent, KindIntentAbandon:
		return s.applyIntent(kind, data, o)
	case KindDeleted:
		return s.applyDeleted(data, o)
	case KindOptions:
		return s.applyOptions(data, o)
	case KindRebuilt:
		return s.applyRebuilt(data, o)
	}
	return nil
}

func (s *state) applyBatch(data []byte, o *outcome) error {
	b, err := decodeBatch(data)
	if err != nil {
		return err
	}
	o.batch, o.session = b, b.session
	if s.deleted {
		o.verdict = verdictUnknown
		return nil
	}
	o.from, o.verdict = s.sessions.count(b.session, b.first, b.count)
	if o.verdict != verdictCounts {
		return nil
	}
	s.baseSet = true // proposers wait for the base; whoever does not finds it empty
	o.firstN = s.commits + 1
	for i := uint32(o.from - b.first); i < b.count; i++ {
		if !b.void(i) {
			s.commits++
			s.bytes += uint64(b.length(i))
		}
	}
	return nil
}

func (s *state) applySession(kind Kind, data []byte, o *outcome) error {
	switch kind {
	case KindSessionOpen:
		var m grouppb.SessionOpen
		if err := decodeRecord(data, &m); err != nil {
			return err
		}
		node, err := id.NodeFromBytes(m.Node)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrMalformedEntry, err)
		}
		copy(o.nonce[:], m.Nonce)
		o.node, o.session = node, o.index
		if s.deleted {
			return nil
		}
		// A node that lags asks again and again before it sees its first copy.
		// While that one lives, another copy opens nothing; after its end it
		// opens a session that nobody knows, and never revives the old one.
		if s.sessions.opened(node, o.nonce) != nil {
			o.repeated = true
			return nil
		}
		o.ended, o.ok = s.sessions.open(o.index, node, m.Incarnation, o.nonce, int(s.options.MaxSessions))
	case KindSessionClose:
		var m grouppb.SessionClose
		if err := decodeRecord(data, &m); err != nil {
			return err
		}
		o.session, o.ok = m.Session, s.sessions.end(m.Session)
	case KindSessionExpire:
		var m grouppb.SessionExpire
		if err := decodeRecord(data, &m); err != nil {
			return err
		}
		o.session, o.ok = m.Session, s.sessions.expire(m.Session, m.Last)
	}
	return nil
}

func (s *state) applyBase(data []byte, o *outcome) error {
	var m grouppb.Base
	if err := decodeRecord(data, &m); err != nil {
		return err
	}
	o.session = m.Session
	if s.baseSet || s.deleted {
		return nil
	}
	s.baseSet, o.ok, o.base = true, true, m.Data
	s.bytes += uint64(len(m.Data))
	return nil
}

func (s *state) applySnapshot(kind Kind, data []byte, o *outcome) error {
	if kind == KindSnapshotRequest {
		var m grouppb.SnapshotRequest
		if err := decodeRecord(data, &m); err != nil {
			return err
		}
		o.session = m.Session
		if _, live, _ := s.sessions.last(m.Session); !live || s.deleted {
			return nil
		}
		o.ok = true
		s.request = &request{index: o.index, commits: s.commits, bytes: s.bytes, session: m.Session, attempt: m.Attempt, clock: s.clock}
		return nil
	}
	var m grouppb.SnapshotAnnounce
	if err := decodeRecord(data, &m); err != nil {
		return err
	}
	ref, err := decodeRef(m.Ref)
	if err != nil {
		return err
	}
	node, err := id.NodeFromBytes(m.Node)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformedEntry, err)
	}
	// The first announcement of an index wins, so that a snapshot of one index
	// has one identity; one from the future of this log is a lie.
	if ref.Index <= s.announced.ref.Index || ref.Index >= o.index || ref.Commits > s.commits {
		return nil
	}
	o.ok, o.announce, o.node = true, ref, node
	s.announced = announcement{ref: ref, node: node, bytes: s.bytes}
	if s.request != nil && s.request.index == ref.Index {
		s.announced.bytes = s.request.bytes
	}
	if s.request != nil && s.request.index <= ref.Index {
		s.request = nil
	}
	return nil
}

func (s *state) applyIntent(kind Kind, data []byte, o *outcome) error {
	if kind == KindIntentAbandon {
		var m grouppb.IntentAbandon
		if err := decodeRecord(data, &m); err != nil {
			return err
		}
		copy(o.nonce[:], m.Nonce)
		n := len(s.intents)
		s.intents = slices.DeleteFunc(s.intents, func(i intent) bool { return uint64(i.replica) == m.Replica })
		o.intent, o.ok = id.Replica(m.Replica), len(s.intents) < n
		return nil
	}
	var m grouppb.ReplicaIntent
	if err := decodeRecord(data, &m); err != nil {
		return err
	}
	node, err := id.NodeFromBytes(m.Node)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformedEntry, err)
	}
	copy(o.nonce[:], m.Nonce)
	o.node = node
	for k := range s.intents {
		if i := &s.intents[k]; i.nonce == o.nonce && i.node == node {
			// A retry: the same answer, and the log stays for it as long again.
			i.clock = s.clock
			o.intent, o.ok = i.replica, true
			return nil
		}
	}
	if s.deleted {
		return nil
	}
	o.intent, o.ok = s.next, true
	s.next++
	s.intents = append(s.intents, intent{replica: o.intent, nonce: o.nonce, node: node, clock: s.clock, seed: m.Seed})
	if len(s.intents) > maxIntents {
		s.intents = slices.Delete(s.intents, 0, 1)
	}
	return nil
}

// applyConf applies a membership change, or refuses it: a change that adds a
// replica nobody was given the ID of, or that raft's rules forbid, has no
// effect on any replica.
func (s *state) applyConf(e *raftpb.Entry, o *outcome) error {
	cc, err := decodeConfChange(e)
	if err != nil {
		return err
	}
	var ctx grouppb.ConfContext
	if err := ctx.Unmarshal(cc.GetContext()); err != nil {
		return fmt.Errorf("%w: context of a configuration change: %w", ErrMalformedEntry, err)
	}
	copy(o.nonce[:], ctx.Nonce)
	s.clock = max(s.clock, ctx.Clock)
	for _, c := range cc.Changes {
		if c.GetType() != raftpb.ConfChangeRemoveNode && !s.mayAdd(c.GetNodeId()) {
			return nil
		}
	}
	next, err := applyConfChange(s.conf, cc)
	if err != nil {
		return nil //nolint:nilerr // refused alike by every replica: the change has no effect
	}
	s.members = maps.Clone(s.members)
	for _, c := range cc.Changes {
		r := id.Replica(c.GetNodeId())
		if i := slices.IndexFunc(s.intents, func(i intent) bool { return i.replica == r }); i >= 0 {
			s.members[r] = s.intents[i].node
			s.joining = append(s.joining, joining{replica: r, seed: s.intents[i].seed, clock: s.clock})
			s.intents = slices.Delete(s.intents, i, i+1)
		}
	}
	for _, r := range slices.Sorted(maps.Keys(s.members)) {
		if !inConf(next, uint64(r)) {
			o.removed = append(o.removed, memberAt{r, s.members[r]})
			delete(s.members, r)
		}
	}
	s.joining = slices.DeleteFunc(s.joining, func(j joining) bool {
		_, member := s.members[j.replica]
		return !member || !s.recent(j.clock)
	})
	s.conf = next
	o.conf, o.ok, o.changed = cc, true, true
	return nil
}

func (s *state) mayAdd(replica uint64) bool {
	if _, member := s.members[id.Replica(replica)]; member {
		return true
	}
	return slices.ContainsFunc(s.intents, func(i intent) bool { return uint64(i.replica) == replica })
}

// seedTime is how long, by the log's clock, the log is kept for a replica that
// was given an ID, and again after it became a member.
const seedTime = 5 * time.Minute

func (s *state) recent(clock int64) bool { return s.clock-clock < int64(seedTime) }

// needed lowers an index, up to which the log is to be compacted, to what new
// replicas still need. Every replica decides by the log, so that a new leader
// has what the old one promised: a group without subscribers cannot make the
// newer snapshot that would be needed otherwise.
func (s *state) needed(index uint64) uint64 {
	for _, i := range s.intents {
		if s.recent(i.clock) {
			index = min(index, i.seed)
		}
	}
	for _, j := range s.joining {
		if s.recent(j.clock) {
			index = min(index, j.seed)
		}
	}
	return index
}

// minLogDue keeps what the log says of itself (sessions, requests, membership)
// from calling for snapshots that change nothing.
const minLogDue = 4096

// snapshotDue reports whether enough has happened since the last snapshot.
// What is not a commit fills the log too: subscriptions that come and go
// without proposing anything would otherwise have it grow for good.
func (s *state) snapshotDue() bool {
	return s.commits-s.announced.ref.Commits >= s.options.SnapshotEntries || s.bytes-s.announced.bytes >= s.options.SnapshotBytes ||
		s.index-s.announced.ref.Index >= max(2*min(s.options.SnapshotEntries, 1<<62), minLogDue)
}

// replicaOn returns the member that lives on a node, if there is one.
// Of several, of which all but one were lost with their disk, it is the newest.
func (s *state) replicaOn(node id.Node) (id.Replica, bool) {
	var found id.Replica
	for r, n := range s.members {
		if n == node {
			found = max(found, r)
		}
	}
	return found, found != 0
}

// equalConf tells whether raft and the pure function agree.
func equalConf(a, b *raftpb.ConfState) bool {
	return proto.Equal(encodeConfForCompare(a), encodeConfForCompare(b))
}

func encodeConfForCompare(cs *raftpb.ConfState) *raftpb.ConfState {
	return &raftpb.ConfState{
		Voters: cs.GetVoters(), Learners: cs.GetLearners(), VotersOutgoing: cs.GetVotersOutgoing(),
		LearnersNext: cs.GetLearnersNext(), AutoLeave: new(cs.GetAutoLeave()),
	}
}
