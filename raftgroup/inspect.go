package raftgroup

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// ReplicaRecord is what a node keeps about its replica beside the log: the
// metadata of a group in the log store, for who looks at a data directory.
type ReplicaRecord struct {
	Version  uint32
	Group    id.Group
	Replica  id.Replica
	Phase    string                 // PhaseStarted, or one beside it
	First    map[id.Replica]id.Node // the members that the group was born with
	Options  Options                // that it was born with
	Snapshot SnapshotRef            // the newest one held; zero: none
	Previous SnapshotRef            // the one before
	Created  time.Time
}

// DecodeReplica reads the metadata of a group in the log store.
func DecodeReplica(meta []byte) (ReplicaRecord, error) {
	var m grouppb.Replica
	if err := m.Unmarshal(meta); err != nil {
		return ReplicaRecord{}, fmt.Errorf("%w: replica record: %w", ErrMalformedEntry, err)
	}
	if m.Version > replicaVersion {
		return ReplicaRecord{}, fmt.Errorf("%w: replica record of format %d", ErrNewerFormat, m.Version)
	}
	genesis, err := decodeGenesis(m.Genesis)
	if err != nil {
		return ReplicaRecord{}, fmt.Errorf("replica record: %w", err)
	}
	r := ReplicaRecord{
		Version: m.Version, Group: genesis.Group, Replica: id.Replica(m.Replica), Phase: phaseName(m.Phase),
		First: genesis.Members, Options: genesis.Options, Created: time.Unix(0, m.Created),
	}
	if r.Snapshot, err = decodeRef(m.Snapshot); err != nil {
		return ReplicaRecord{}, fmt.Errorf("replica record: %w", err)
	}
	if r.Previous, err = decodeRef(m.Previous); err != nil {
		return ReplicaRecord{}, fmt.Errorf("replica record: %w", err)
	}
	return r, nil
}

// LogView is what a replica's log says, as of one index.
type LogView struct {
	Index    uint64
	Term     uint64 // of the entry at Index
	Commits  uint64 // N
	Voters   map[id.Replica]id.Node
	Outgoing map[id.Replica]id.Node // the voters before, while the membership changes
	Learners map[id.Replica]id.Node
	Options  Options
	Sessions int
	Deleted  bool
	Clock    time.Time // the leader's clock
	Rebuilt  []Rebuild // as far as they stand in the log that is left; From and To have the recovery number alone
}

// readStep is how many bytes of log ReadLog wants at a time.
const readStep = 4 << 20

// ReadLog applies a replica's log up to an index, and says what it comes to.
// state is that in the head of the replica's snapshot, nil if it has none;
// entries reads the log, as wal.Log.Entries does.
func ReadLog(r ReplicaRecord, state []byte, to uint64, entries func(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error)) (LogView, error) {
	return readLog(r, state, to, entries, nil)
}

// Changes are what ReadChanges hands out, from one goroutine and in the order of
// the log. The bytes belong to the receiver; an error ends the reading with it.
type Changes struct {
	Base   func(base []byte) error             // what the group was founded with
	Change func(n uint64, change []byte) error // with its N
}

// ReadChanges is ReadLog, and hands out what a subscriber would get behind the
// replica's snapshot. Where that was made within an entry, changes that it holds
// come too: their N is not above that of the snapshot.
func ReadChanges(r ReplicaRecord, state []byte, to uint64, entries func(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error), changes Changes) (LogView, error) {
	return readLog(r, state, to, entries, &changes)
}

func readLog(r ReplicaRecord, state []byte, to uint64, entries func(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error), changes *Changes) (LogView, error) {
	s := newState(r.Group, r.First, r.Options)
	if state != nil {
		var err error
		if s, err = decodeState(r.Group, state); err != nil {
			return LogView{}, err
		}
	}
	var rebuilt []Rebuild
	for s.index < to {
		some, err := entries(s.index+1, to+1, readStep)
		if err == nil && len(some) == 0 {
			err = fmt.Errorf("group %s: no entry %d", r.Group, s.index+1)
		}
		if err != nil {
			return s.view(rebuilt), err
		}
		for _, e := range some {
			o, err := s.apply(e)
			if err != nil {
				return s.view(rebuilt), err
			}
			if changes != nil {
				if err := changes.hand(o); err != nil {
					return s.view(rebuilt), err
				}
			}
			if o.kind == KindRebuilt {
				rebuilt = append(rebuilt, rebuildOf(e.GetData()))
			}
		}
	}
	return s.view(rebuilt), nil
}

func (c *Changes) hand(o outcome) error {
	switch {
	case o.kind == KindBase && o.ok:
		return c.Base(slices.Clone(o.base))
	case o.kind == KindBatch && o.verdict == verdictCounts:
		for i, change := range copyPayloads(&o.batch, o.from) {
			if err := c.Change(o.firstN+uint64(i), change); err != nil {
				return err
			}
		}
	}
	return nil
}

// rebuildOf reads an entry that the state has applied.
func rebuildOf(data []byte) Rebuild {
	var m grouppb.Rebuilt
	if err := decodeRecord(data, &m); err != nil {
		return Rebuild{}
	}
	r := Rebuild{
		From: id.Incarnation{Recovery: m.OldRecovery}, To: id.Incarnation{Recovery: m.Recovery},
		Replica: id.Replica(m.Replica), At: time.Unix(0, m.At), Reason: m.Reason,
	}
	copy(r.Node[:], m.Node)
	return r
}

func (s *state) view(rebuilt []Rebuild) LogView {
	v := LogView{
		Index: s.index, Term: s.term, Commits: s.commits, Options: s.options, Sessions: len(s.sessions.live),
		Deleted: s.deleted, Clock: time.Unix(0, s.clock), Rebuilt: rebuilt,
	}
	some := func(replicas []uint64) map[id.Replica]id.Node {
		out := make(map[id.Replica]id.Node, len(replicas))
		for _, r := range replicas {
			out[id.Replica(r)] = s.members[id.Replica(r)]
		}
		return out
	}
	v.Voters, v.Outgoing = some(s.conf.GetVoters()), some(s.conf.GetVotersOutgoing())
	v.Learners = some(append(append([]uint64(nil), s.conf.GetLearners()...), s.conf.GetLearnersNext()...))
	return v
}
