package catalog

import (
	"fmt"
	"maps"
	"slices"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/catalogpb"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/raftgroup"
)

// ID is the well-known ID of the catalog's own group. Its time is the first
// millisecond of 1970, so that no ID made with a clock is ever equal to it.
var ID = id.Structure{9: 'c', 'a', 't', 'a', 'l', 'o', 'g'}

// Incarnation is that of the catalog's own group: it is born by being founded.
var Incarnation = id.Incarnation{Birth: 1}

// maxFirstMembers bounds the replicas that a birth makes.
const maxFirstMembers = 7

// Record is what the catalog knows of one data structure: a birth certificate.
// Its maps are shared and must not be changed.
type Record struct {
	Structure   id.Structure
	Incarnation id.Incarnation // Recovery is a hint
	Token       raftgroup.Token
	Members     map[id.Replica]id.Node // the first ones
	Options     raftgroup.Options
	// Deleted is the index of the deletion; 0 if the structure lives. Of a
	// deleted structure only the ID, the incarnation and Follows are kept.
	Deleted uint64
	// Follows is the birth of the deleted incarnation that the catalog knew when
	// this one was created; 0 if it knew of none, or if that is not known any more.
	Follows uint64
	// Hint is who the members are by now, as far as somebody said, as of
	// HintAsOf in the group's own log. Nil: nobody did.
	Hint     map[id.Replica]id.Node
	HintAsOf uint64
}

// Lives reports whether the record is one of a structure that was not deleted.
func (r Record) Lives() bool { return r.Incarnation.Birth != 0 && r.Deleted == 0 }

// Ends reports whether the record proves that the incarnation of a birth was
// deleted: it says so, or tells of a later birth, since an ID is free only after a
// deletion. Where the catalog was rebuilt between the two births, it may have lost
// the earlier one; then only a deletion that it knew of itself is a proof.
func (r Record) Ends(birth uint64) bool {
	// Half the gap, since a birth in the part of the log that was lost is later
	// than the survivor's end, from which the gap was counted.
	after := func(known uint64) bool { return known >= birth && known-birth < recoveryGap/2 }
	switch {
	case r.Incarnation.Birth < birth:
		return false
	case r.Incarnation.Birth == birth:
		return r.Deleted != 0
	}
	return after(r.Incarnation.Birth) || after(r.Follows)
}

// Group names the group that the record is about.
func (r Record) Group() id.Group {
	return id.Group{Structure: r.Structure, Incarnation: r.Incarnation}
}

// Nodes lists the nodes where the group may be found: the present members as
// far as known, then the first ones.
func (r Record) Nodes() []id.Node {
	var out []id.Node
	for _, members := range []map[id.Replica]id.Node{r.Hint, r.Members} {
		for _, replica := range slices.Sorted(maps.Keys(members)) {
			if n := members[replica]; !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}

func (r Record) encode() *catalogpb.Record {
	m := &catalogpb.Record{
		Structure: r.Structure[:], Birth: r.Incarnation.Birth, Recovery: r.Incarnation.Recovery, Deleted: r.Deleted, Follows: r.Follows,
	}
	if r.Deleted != 0 {
		return m
	}
	m.Members, m.Options = encodeMembers(r.Members), r.Options.Encode()
	if r.Token != (raftgroup.Token{}) {
		m.Token = r.Token[:]
	}
	m.Hint, m.HintAsOf = encodeMembers(r.Hint), r.HintAsOf
	return m
}

func decodeRecord(m *catalogpb.Record) (Record, error) {
	if m == nil {
		return Record{}, nil
	}
	s, err := id.StructureFromBytes(m.Structure)
	if err != nil {
		return Record{}, err
	}
	r := Record{Structure: s, Incarnation: id.Incarnation{Birth: m.Birth, Recovery: m.Recovery}, Deleted: m.Deleted, Follows: m.Follows}
	if r.Deleted != 0 {
		return r, nil
	}
	if len(m.Token) > 0 { // none: registered again by its leader
		if r.Token, err = decodeToken(m.Token); err != nil {
			return Record{}, fmt.Errorf("structure %s: %w", s, err)
		}
	}
	if r.Members, err = decodeMembers(m.Members); err != nil {
		return Record{}, fmt.Errorf("structure %s: %w", s, err)
	}
	if r.Hint, err = decodeMembers(m.Hint); err != nil {
		return Record{}, fmt.Errorf("structure %s: %w", s, err)
	}
	r.Options, r.HintAsOf = raftgroup.DecodeOptions(m.Options), m.HintAsOf
	return r, nil
}

func decodeToken(b []byte) (raftgroup.Token, error) {
	var t raftgroup.Token
	if len(b) != len(t) {
		return t, fmt.Errorf("%w: token of %d bytes", ErrInvalid, len(b))
	}
	copy(t[:], b)
	if t == (raftgroup.Token{}) {
		return t, fmt.Errorf("%w: no token", ErrInvalid)
	}
	return t, nil
}

func encodeMembers(members map[id.Replica]id.Node) []*grouppb.Member {
	out := make([]*grouppb.Member, 0, len(members))
	for _, r := range slices.Sorted(maps.Keys(members)) {
		n := members[r]
		out = append(out, &grouppb.Member{Replica: uint64(r), Node: n[:]})
	}
	return out
}

// decodeMembers refuses a replica or a node that stands there twice.
func decodeMembers(from []*grouppb.Member) (map[id.Replica]id.Node, error) {
	if len(from) == 0 {
		return nil, nil
	}
	members := make(map[id.Replica]id.Node, len(from))
	nodes := make(map[id.Node]bool, len(from))
	for _, m := range from {
		node, err := id.NodeFromBytes(m.Node)
		if err != nil {
			return nil, err
		}
		if _, twice := members[id.Replica(m.Replica)]; twice || nodes[node] || m.Replica == 0 || node.IsZero() {
			return nil, fmt.Errorf("%w: replica %d on node %s", ErrInvalid, m.Replica, node)
		}
		members[id.Replica(m.Replica)], nodes[node] = node, true
	}
	return members, nil
}

// checkFirstMembers tells whether members can be those of a birth: replicas 1
// to n, n odd, so that a group never begins with a number of voters that a
// single loss makes worse than one fewer would have been.
func checkFirstMembers(members map[id.Replica]id.Node) error {
	n := len(members)
	if n == 0 || n%2 == 0 || n > maxFirstMembers {
		return fmt.Errorf("%w: %d first members", ErrInvalid, n)
	}
	for r := id.Replica(1); r <= id.Replica(n); r++ {
		if _, ok := members[r]; !ok {
			return fmt.Errorf("%w: first members without replica %d", ErrInvalid, r)
		}
	}
	return nil
}

func encodeGenesis(g raftgroup.Genesis) *grouppb.Genesis {
	return &grouppb.Genesis{
		Structure: g.Group.Structure[:], Members: encodeMembers(g.Members),
		Options: g.Options.Encode(), Token: g.Token[:],
	}
}

// decodeGenesis reads the genesis of a birth that is not decided, and refuses
// any that this package would not have made.
func decodeGenesis(m *grouppb.Genesis) (raftgroup.Genesis, error) {
	if m == nil || m.Birth != 0 || m.Recovery != 0 {
		return raftgroup.Genesis{}, fmt.Errorf("%w: no genesis, or one that is decided", ErrInvalid)
	}
	s, err := decodeStructure(m.Structure)
	if err != nil {
		return raftgroup.Genesis{}, err
	}
	g := raftgroup.Genesis{Group: id.Group{Structure: s}, Options: raftgroup.DecodeOptions(m.Options)}
	if g.Token, err = decodeToken(m.Token); err != nil {
		return raftgroup.Genesis{}, err
	}
	if g.Members, err = decodeMembers(m.Members); err != nil {
		return raftgroup.Genesis{}, err
	}
	return g, checkFirstMembers(g.Members)
}
