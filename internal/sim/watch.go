package sim

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/snapshot"
)

// errInvariant says that something happened that must never happen.
var errInvariant = errors.New("invariant broken")

// watch asserts, at every step, what no history could show or would show late:
// it sees every message, every update of every log when it is durable, and
// every command of the catalog.
//
//   - One replica leads in a term of a group; a replica votes for one in a term.
//   - An entry is the same wherever it has the same index and term, and so is
//     the term of a committed index.
//   - Term, vote and commit of a replica's hard state never go back, not over
//     a crash either.
//   - What a replica's record names as its snapshot is a whole file, whose
//     label, state, membership and content are of one place.
//   - A ReplicaID is given to one replica only, and spoken for by one node.
//   - A structure has one incarnation at a time: the one that the catalog says.
//   - A replica that rests shows who leads it.
type watch struct {
	s *Sim

	leaders  map[inTerm]uint64    // who spoke as leader
	votes    map[voteIn]uint64    // whom it was for
	speakers map[replicaOf]*node  // who sends in the name of a replica
	created  map[newReplica]local // where it was made
	locals   map[local]*replicaLog
	entries  map[entryAt]uint32    // checksums of what was appended
	decision map[entryOf]committed // terms of what was committed
	confs    map[id.Group][]confAt // memberships that were seen, by index
	shown    map[showing]raftgroup.GroupStatus

	sound  map[id.Group]bool         // groups that the catalog has born
	births map[uint64]catalog.Record // what the catalog created, by index
	deaths map[id.Structure][]uint64 // births whose deletion was committed
}

type inTerm struct {
	group id.Group
	term  uint64
}

type voteIn struct {
	inTerm
	voter uint64
}

type replicaOf struct {
	group   id.Group
	replica uint64
}

// newReplica is what a ReplicaID belongs to before the group has its
// incarnation: a birth's token.
type newReplica struct {
	token   raftgroup.Token
	replica uint64
}

// local is a replica's place in a node's log.
type local struct {
	node  int
	group uint64
}

type entryOf struct {
	group id.Group
	index uint64
}

type entryAt struct {
	entryOf
	term uint64
}

type committed struct {
	term uint64
	by   local
}

type confAt struct {
	index uint64
	conf  string
}

type showing struct {
	node    int
	life    uint64
	group   id.Group
	replica id.Replica
	start   *raftgroup.Group // a replica whose log was mended starts again
}

func newWatch(s *Sim) *watch {
	return &watch{
		s: s, leaders: make(map[inTerm]uint64), votes: make(map[voteIn]uint64), speakers: make(map[replicaOf]*node),
		created: make(map[newReplica]local), locals: make(map[local]*replicaLog), entries: make(map[entryAt]uint32),
		decision: make(map[entryOf]committed), confs: make(map[id.Group][]confAt), shown: make(map[showing]raftgroup.GroupStatus),
		sound: make(map[id.Group]bool), births: make(map[uint64]catalog.Record), deaths: make(map[id.Structure][]uint64),
	}
}

func (w *watch) broken(format string, args ...any) {
	w.s.must(fmt.Errorf("%w: %w", errInvariant, fmt.Errorf(format, args...)))
}

// The numbers of raftpb.Message's fields.
const (
	fieldType   = 1
	fieldTo     = 2
	fieldFrom   = 3
	fieldTerm   = 4
	fieldReject = 10
)

// message looks at one message when it is sent.
func (w *watch) message(from *node, m raftgroup.Message) {
	if m.From == 0 {
		return // between hosts
	}
	w.incarnation(from, m.Group)
	key := replicaOf{m.Group, uint64(m.From)}
	if n := w.speakers[key]; n == nil {
		w.speakers[key] = from
	} else if n != from {
		w.broken("replica %d of %s speaks from node %d, and from node %d", m.From, m.Group, n.number, from.number)
	}
	if len(m.Payload) == 0 || m.Payload[0] != 1 {
		return
	}
	fields := varints(m.Payload[1:])
	at := inTerm{m.Group, fields[fieldTerm]}
	switch raftpb.MessageType(fields[fieldType]) {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap, raftpb.MsgTimeoutNow:
		if l := w.leaders[at]; l == 0 {
			w.leaders[at] = fields[fieldFrom]
		} else if l != fields[fieldFrom] {
			w.broken("replicas %d and %d of %s lead in term %d", l, fields[fieldFrom], m.Group, at.term)
		}
	case raftpb.MsgVoteResp:
		if fields[fieldReject] != 0 {
			return
		}
		vote := voteIn{at, fields[fieldFrom]}
		if c := w.votes[vote]; c == 0 {
			w.votes[vote] = fields[fieldTo]
		} else if c != fields[fieldTo] {
			w.broken("replica %d of %s votes for %d and for %d in term %d", vote.voter, m.Group, c, fields[fieldTo], at.term)
		}
	}
}

// varints reads the numbers of a message without decoding the rest.
func varints(b []byte) (out [16]uint64) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return out
		}
		b = b[n:]
		if kind == protowire.VarintType && int(number) < len(out) {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return out
			}
			out[number], b = v, b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return out
		}
		b = b[n:]
	}
	return out
}

// meta takes a replica's record: whose ReplicaID it is, and which snapshot it holds.
func (w *watch) meta(n *node, key local, r *replicaLog, data []byte) {
	var m grouppb.Replica
	if err := m.Unmarshal(data); err != nil || m.Genesis == nil {
		w.broken("node %d, local group %d: replica record: %v", key.node, key.group, err)
		return
	}
	r.meta = m
	r.group = id.Group{Incarnation: id.Incarnation{Birth: m.Genesis.Birth, Recovery: m.Genesis.Recovery}}
	copy(r.group.Structure[:], m.Genesis.Structure)
	fresh := newReplica{replica: m.Replica}
	copy(fresh.token[:], m.Genesis.Token)
	if where, known := w.created[fresh]; known && where != key {
		w.broken("ReplicaID %d of structure %s was given out twice: local group %d of node %d, and %d of %d",
			m.Replica, r.group.Structure, where.group, where.node, key.group, key.node)
	}
	w.created[fresh] = key
	if m.Phase == grouppb.Replica_STARTED {
		w.incarnation(n, r.group)
	}
	if m.Snapshot != nil && n.up {
		w.snapshot(n, key, r, m.Snapshot)
	}
}

// snapshot reads the file that a record has just named.
func (w *watch) snapshot(n *node, key local, r *replicaLog, named *grouppb.SnapshotRef) {
	ref := snapshot.Ref{Index: named.Index, Term: named.Term, Commits: named.Commits, Maker: named.Maker, Size: named.Size_}
	copy(ref.Checksum[:], named.Checksum)
	if r.stored[ref.String()] {
		return
	}
	r.stored[ref.String()] = true
	where := fmt.Sprintf("node %d, replica %d of %s: %s", n.number, r.meta.Replica, r.group, ref)
	data, head, err := readSnapshot(n.snaps, key.group, ref)
	var damage *snapshot.DamageError
	if errors.Is(err, errPower) || errors.As(err, &damage) && n.flipped {
		return
	}
	if err != nil {
		w.broken("%s: named by the log, and not there: %w", where, err)
		return
	}
	var st grouppb.State
	if err := st.Unmarshal(head.State); err != nil {
		w.broken("%s: state: %w", where, err)
		return
	}
	if st.Index != ref.Index || st.Commits != ref.Commits || st.Term != ref.Term {
		w.broken("%s: its state is that of index %d, term %d, %d commits", where, st.Index, st.Term, st.Commits)
	}
	conf := confOf(st.Conf.GetVoters(), st.Conf.GetLearners(), st.Conf.GetLearnersNext())
	if want, sure := w.confAt(r.group, ref.Index); sure && want != conf {
		w.broken("%s: its membership is %s, and was %s", where, conf, want)
	}
	if number := w.s.numberOf(r.group); number != 0 {
		w.s.rec.Stored(number, uint16(n.number), ref.Commits, data)
		w.s.stored++
	}
}

func readSnapshot(store *snapshot.Store, group uint64, ref snapshot.Ref) (data []byte, head snapshot.Head, err error) {
	f, err := store.Open(group, ref)
	if err != nil {
		return nil, head, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(f)
	return data, f.Head(), err
}

func confOf(voters, learners, next []uint64) string {
	learners = slices.Concat(learners, next)
	slices.Sort(learners)
	return fmt.Sprintf("%d and %d", slices.Sorted(slices.Values(voters)), learners)
}

// status looks at what the replicas of a node show of themselves.
func (w *watch) status(n *node) {
	for _, st := range n.host.Groups() {
		key := showing{n.number, n.life, st.Group, st.Replica, nil}
		key.start, _ = n.host.Group(st.Group.Structure)
		before, known := w.shown[key]
		if known && !st.Failed && (st.Commit < before.Commit || st.Applied < before.Applied || st.Commits < before.Commits || st.Term < before.Term) {
			w.broken("node %d, replica %d of %s goes back: from term %d, commit %d, applied %d, %d commits to %d, %d, %d, %d", n.number, st.Replica, st.Group,
				before.Term, before.Commit, before.Applied, before.Commits, st.Term, st.Commit, st.Applied, st.Commits)
		}
		if st.Quiet && (st.Leader == 0 || st.Alone) { // and nothing would come to set it right
			w.broken("node %d, replica %d of %s rests, and shows no leader", n.number, st.Replica, st.Group)
		}
		if st.Failed || st.Voters == nil || known && before.Applied == st.Applied {
			continue
		}
		w.shown[key] = st
		if w.s.town != nil {
			w.s.town.membership(st)
			if w.s.town.life.newest[st.Group].Applied < st.Applied {
				w.s.town.life.newest[st.Group] = st
			}
		}
		if !st.Joint {
			w.sawConf(st.Group, st.Applied, confOf(replicas(st.Voters), replicas(st.Learners), nil))
		}
	}
}

func replicas(members map[id.Replica]id.Node) (out []uint64) {
	for _, r := range slices.Sorted(maps.Keys(members)) {
		out = append(out, uint64(r))
	}
	return out
}

// sawConf notes the membership as of an index.
func (w *watch) sawConf(g id.Group, index uint64, conf string) {
	seen := w.confs[g]
	i, known := slices.BinarySearchFunc(seen, index, func(c confAt, i uint64) int { return int(int64(c.index) - int64(i)) })
	switch {
	case known && seen[i].conf != conf:
		w.broken("%s has two memberships as of %d: %s and %s", g, index, seen[i].conf, conf)
	case known, i > 0 && i < len(seen) && seen[i-1].conf == conf && seen[i].conf == conf:
	default:
		w.confs[g] = slices.Insert(seen, i, confAt{index, conf})
	}
}

// confAt tells the membership as of an index: surely, if it was seen there, or
// the same before and after.
func (w *watch) confAt(g id.Group, index uint64) (conf string, sure bool) {
	seen := w.confs[g]
	i, known := slices.BinarySearchFunc(seen, index, func(c confAt, i uint64) int { return int(int64(c.index) - int64(i)) })
	if known {
		return seen[i].conf, true
	}
	if i > 0 && i < len(seen) && seen[i-1].conf == seen[i].conf {
		return seen[i].conf, true
	}
	return "", false
}

// decided takes down a result of the catalog, as one node has it.
func (w *watch) decided(n *node, r catalog.Result) {
	switch r.Outcome {
	case catalog.Created:
		birth := r.Record.Incarnation.Birth
		if known, again := w.births[birth]; again {
			if known.Token != r.Record.Token || known.Structure != r.Record.Structure {
				w.broken("node %d: birth %d is of %s, and of %s", n.number, birth, known.Structure, r.Record.Structure)
			}
			return
		}
		for b, other := range w.births {
			if other.Structure == r.Record.Structure && !slices.Contains(w.deaths[other.Structure], b) {
				w.broken("structure %s was born at %d, and again at %d", other.Structure, b, birth)
			}
		}
		w.births[birth] = r.Record
	case catalog.Deleted:
		s := r.Record.Structure
		if b := r.Record.Incarnation.Birth; r.Record.Deleted != 0 && !slices.Contains(w.deaths[s], b) {
			w.deaths[s] = append(w.deaths[s], b)
		}
	}
}

// lives is the birth of a structure that was not deleted; 0: there is none.
func (w *watch) lives(s id.Structure) uint64 {
	var newest uint64
	for birth, rec := range w.births {
		if rec.Structure == s && birth > newest && !slices.Contains(w.deaths[s], birth) {
			newest = birth
		}
	}
	return newest
}

// died reports whether a life of a structure was ended.
func (w *watch) died(g id.Group) bool {
	return slices.Contains(w.deaths[g.Structure], g.Incarnation.Birth)
}

// incarnation holds a group that somebody has started against the catalog.
func (w *watch) incarnation(n *node, g id.Group) {
	if w.sound[g] || !w.s.isBorn(g.Structure) {
		return
	}
	w.sound[g] = true
	if rec, known := w.births[g.Incarnation.Birth]; !known || rec.Structure != g.Structure {
		w.broken("node %d has %s, which was never born", n.number, g)
	}
}
