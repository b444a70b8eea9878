package raftgroup

import (
	"fmt"
	"slices"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

const stateVersion = 1

// clone returns an independent copy, for a delivery cursor to run on with.
func (s *state) clone() (*state, error) {
	data, err := s.encode()
	if err != nil {
		return nil, err
	}
	return decodeState(s.group, data)
}

func (s *state) encode() ([]byte, error) {
	m := grouppb.State{
		Version: stateVersion, Index: s.index, Term: s.term, Commits: s.commits, Bytes: s.bytes, Clock: s.clock,
		BaseSet: s.baseSet, Conf: encodeConf(s.conf), Members: encodeMembers(s.members), NextReplica: uint64(s.next),
		Options: s.options.Encode(), Deleted: s.deleted,
	}
	s.sessions.encode(&m)
	for _, i := range s.intents {
		m.Intents = append(m.Intents, &grouppb.Intent{Replica: uint64(i.replica), Nonce: i.nonce[:], Node: i.node[:], Clock: i.clock, Seed: i.seed})
	}
	for _, j := range s.joining {
		m.Joining = append(m.Joining, &grouppb.Joining{Replica: uint64(j.replica), Seed: j.seed, Clock: j.clock})
	}
	if s.announced.ref.Index != 0 {
		m.Announced, m.AnnouncedBy, m.AnnouncedBytes = encodeRef(s.announced.ref), s.announced.node[:], s.announced.bytes
	}
	if r := s.request; r != nil {
		m.RequestIndex, m.RequestSession, m.RequestAttempt, m.RequestClock = r.index, r.session, r.attempt, r.clock
		m.RequestCommits, m.RequestBytes = r.commits, r.bytes
	}
	return m.Marshal()
}

func decodeState(group id.Group, data []byte) (*state, error) {
	var m grouppb.State
	if err := m.Unmarshal(data); err != nil {
		return nil, fmt.Errorf("group %s: applied state: %w", group, err)
	}
	if m.Version > stateVersion {
		return nil, fmt.Errorf("%w: group %s: applied state of format %d", ErrNewerFormat, group, m.Version)
	}
	if m.Version == 0 {
		return nil, fmt.Errorf("%w: group %s: applied state without a version", ErrMalformedEntry, group)
	}
	s := &state{
		group: group, index: m.Index, term: m.Term, commits: m.Commits, bytes: m.Bytes, clock: m.Clock, baseSet: m.BaseSet,
		conf: decodeConf(m.Conf), next: id.Replica(m.NextReplica), options: decodeOptions(m.Options), deleted: m.Deleted,
	}
	err := checkConf(s.conf)
	if err != nil {
		return nil, fmt.Errorf("%w: group %s: applied state: %w", ErrMalformedEntry, group, err)
	}
	if err = s.sessions.decode(&m); err != nil {
		return nil, fmt.Errorf("group %s: applied state: %w", group, err)
	}
	if s.members, err = decodeMembers(m.Members); err != nil {
		return nil, fmt.Errorf("group %s: applied state: %w", group, err)
	}
	for _, i := range m.Intents {
		node, err := id.NodeFromBytes(i.Node)
		if err != nil {
			return nil, fmt.Errorf("group %s: applied state: %w", group, err)
		}
		in := intent{replica: id.Replica(i.Replica), node: node, clock: i.Clock, seed: i.Seed}
		copy(in.nonce[:], i.Nonce)
		s.intents = append(s.intents, in)
	}
	for _, j := range m.Joining {
		s.joining = append(s.joining, joining{replica: id.Replica(j.Replica), seed: j.Seed, clock: j.Clock})
	}
	if m.Announced != nil {
		if s.announced.ref, err = decodeRef(m.Announced); err != nil {
			return nil, fmt.Errorf("group %s: applied state: %w", group, err)
		}
		copy(s.announced.node[:], m.AnnouncedBy)
		s.announced.bytes = m.AnnouncedBytes
	}
	if m.RequestIndex != 0 {
		s.request = &request{
			index: m.RequestIndex, session: m.RequestSession, attempt: m.RequestAttempt, clock: m.RequestClock,
			commits: m.RequestCommits, bytes: m.RequestBytes,
		}
	}
	return s, nil
}

func encodeMembers(members map[id.Replica]id.Node) []*grouppb.Member {
	replicas := make([]id.Replica, 0, len(members))
	for r := range members {
		replicas = append(replicas, r)
	}
	slices.Sort(replicas)
	out := make([]*grouppb.Member, 0, len(members))
	for _, r := range replicas {
		n := members[r]
		out = append(out, &grouppb.Member{Replica: uint64(r), Node: n[:]})
	}
	return out
}

func decodeMembers(from []*grouppb.Member) (map[id.Replica]id.Node, error) {
	members := make(map[id.Replica]id.Node, len(from))
	for _, m := range from {
		node, err := id.NodeFromBytes(m.Node)
		if err != nil {
			return nil, err
		}
		members[id.Replica(m.Replica)] = node
	}
	return members, nil
}
