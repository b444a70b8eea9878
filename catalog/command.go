package catalog

import (
	"fmt"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/catalogpb"
	"github.com/copycat-replication/copycat/raftgroup"
)

// Commands, snapshots and calls begin with a magic byte each, so that stray
// bytes are malformed rather than "newer", and a version byte; a protobuf
// message follows. A new kind of command needs a new version: a machine that
// does not know it must stop. Version 2 has advance, barrier, Create.after and
// UpdateMembers.options; commands that need none of it are written as version 1.
const (
	commandMagic    = 0xC7
	commandVersion  = 2
	snapshotMagic   = 0xC5
	snapshotVersion = 1
	callMagic       = 0xC3
	callVersion     = 1
	headSize        = 2
)

// Nonce matches the result of a command with who waits for it.
type Nonce [16]byte

// command is one of createCommand, abandonCommand, deleteCommand,
// updateCommand, advanceCommand, barrierCommand.
type command interface {
	about() id.Structure
	proto() *catalogpb.Command
	version() byte // the first that has it
}

type createCommand struct {
	structure id.Structure
	token     raftgroup.Token
	members   map[id.Replica]id.Node
	options   raftgroup.Options
	basis     uint64
	after     uint64 // birth of the deleted incarnation that it is to follow
	strict    bool   // what was deleted stays so, unless after names it: from version 2
}

type abandonCommand struct {
	structure id.Structure
	token     raftgroup.Token
}

type deleteCommand struct {
	structure id.Structure
	birth     uint64
}

type updateCommand struct {
	structure   id.Structure
	incarnation id.Incarnation
	members     map[id.Replica]id.Node
	asOf        uint64
	options     *raftgroup.Options // nil: version 1
}

type advanceCommand struct{ by uint64 }

type barrierCommand struct{ structure id.Structure }

func (c createCommand) about() id.Structure  { return c.structure }
func (c abandonCommand) about() id.Structure { return c.structure }
func (c deleteCommand) about() id.Structure  { return c.structure }
func (c updateCommand) about() id.Structure  { return c.structure }
func (advanceCommand) about() id.Structure   { return id.Structure{} }
func (c barrierCommand) about() id.Structure { return c.structure }

func (c createCommand) version() byte {
	if c.strict {
		return 2
	}
	return 1
}
func (abandonCommand) version() byte { return 1 }
func (deleteCommand) version() byte  { return 1 }
func (c updateCommand) version() byte {
	if c.options != nil {
		return 2
	}
	return 1
}
func (advanceCommand) version() byte { return 2 }
func (barrierCommand) version() byte { return 2 }

func (c advanceCommand) proto() *catalogpb.Command {
	return &catalogpb.Command{Advance: &catalogpb.Advance{By: c.by}}
}

func (c barrierCommand) proto() *catalogpb.Command {
	m := &catalogpb.Barrier{}
	if !c.structure.IsZero() {
		m.Structure = c.structure[:]
	}
	return &catalogpb.Command{Barrier: m}
}

func (c createCommand) proto() *catalogpb.Command {
	return &catalogpb.Command{Create: &catalogpb.Create{
		Structure: c.structure[:], Token: c.token[:], Members: encodeMembers(c.members),
		Options: c.options.Encode(), Basis: c.basis, After: c.after,
	}}
}

func (c abandonCommand) proto() *catalogpb.Command {
	return &catalogpb.Command{Abandon: &catalogpb.Abandon{Structure: c.structure[:], Token: c.token[:]}}
}

func (c deleteCommand) proto() *catalogpb.Command {
	return &catalogpb.Command{Delete: &catalogpb.Delete{Structure: c.structure[:], Birth: c.birth}}
}

func (c updateCommand) proto() *catalogpb.Command {
	m := &catalogpb.UpdateMembers{
		Structure: c.structure[:], Birth: c.incarnation.Birth, Recovery: c.incarnation.Recovery,
		AsOf: c.asOf, Members: encodeMembers(c.members),
	}
	if c.options != nil {
		m.Options = c.options.Encode()
	}
	return &catalogpb.Command{UpdateMembers: m}
}

func decodeCreate(m *catalogpb.Create, version byte) (command, error) {
	s, err := decodeStructure(m.Structure)
	if err != nil {
		return nil, err
	}
	c := createCommand{structure: s, options: raftgroup.DecodeOptions(m.Options), basis: m.Basis, strict: version >= 2}
	if c.strict {
		c.after = m.After
	}
	if c.token, err = decodeToken(m.Token); err != nil {
		return nil, err
	}
	if c.members, err = decodeMembers(m.Members); err != nil {
		return nil, err
	}
	return c, checkFirstMembers(c.members)
}

func decodeAbandon(m *catalogpb.Abandon) (command, error) {
	s, err := decodeStructure(m.Structure)
	if err != nil {
		return nil, err
	}
	c := abandonCommand{structure: s}
	c.token, err = decodeToken(m.Token)
	return c, err
}

func decodeDelete(m *catalogpb.Delete) (command, error) {
	s, err := decodeStructure(m.Structure)
	if err == nil && m.Birth == 0 {
		err = fmt.Errorf("%w: delete without a birth", ErrInvalid)
	}
	return deleteCommand{structure: s, birth: m.Birth}, err
}

func decodeUpdate(m *catalogpb.UpdateMembers, version byte) (command, error) {
	s, err := decodeStructure(m.Structure)
	if err == nil && (m.Birth == 0 || len(m.Members) > maxHint) {
		err = fmt.Errorf("%w: birth %d, %d members", ErrInvalid, m.Birth, len(m.Members))
	}
	if err != nil {
		return nil, err
	}
	c := updateCommand{structure: s, incarnation: id.Incarnation{Birth: m.Birth, Recovery: m.Recovery}, asOf: m.AsOf}
	if m.Options != nil && version >= 2 {
		o := raftgroup.DecodeOptions(m.Options)
		c.options = &o
	}
	c.members, err = decodeMembers(m.Members)
	return c, err
}

// maxHint bounds the members in a hint: it is to be found by, not a census.
const maxHint = 32

// decodeStructure refuses the catalog's own ID too: it has no record.
func decodeStructure(b []byte) (id.Structure, error) {
	s, err := id.StructureFromBytes(b)
	if err == nil && (s.IsZero() || s == ID) {
		err = fmt.Errorf("%w: structure %s", ErrInvalid, s)
	}
	return s, err
}

func encodeCommand(c command, nonce Nonce) ([]byte, error) {
	m := c.proto()
	m.Nonce = nonce[:]
	return marshal(commandMagic, c.version(), m)
}

// decodeCommand returns the nonce also of a command that makes no sense, if it
// can be read, so that who waits for it is told.
func decodeCommand(data []byte) (command, Nonce, error) {
	var nonce Nonce
	var m catalogpb.Command
	if err := unmarshal(commandMagic, commandVersion, data, &m); err != nil {
		return nil, nonce, err
	}
	copy(nonce[:], m.Nonce)
	c, err := fromProto(&m, data[1])
	return c, nonce, err
}

type protoMessage interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
	Unmarshal([]byte) error
}

func marshal(magic, version byte, m protoMessage) ([]byte, error) {
	data := make([]byte, headSize+m.Size())
	data[0], data[1] = magic, version
	_, err := m.MarshalToSizedBuffer(data[headSize:])
	return data, err
}

func unmarshal(magic, version byte, data []byte, m protoMessage) error {
	if len(data) < headSize || data[0] != magic || data[1] == 0 {
		return fmt.Errorf("%w: %d bytes without the magic", ErrInvalid, len(data))
	}
	if data[1] > version {
		return fmt.Errorf("%w: version %d, this is %d", ErrNewerFormat, data[1], version)
	}
	if err := m.Unmarshal(data[headSize:]); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// recoveryGap is by how much the index of a catalog moves when it is rebuilt: no
// cluster has four billion births that the survivor has not heard of.
const recoveryGap = 1 << 32

// recoveryEpoch is from when recoveries count seconds: the start of 2026.
const recoveryEpoch = 1_767_225_600

// RecoveryCommand is what is to be committed first in a catalog that is rebuilt
// from a survivor, which has come to index: births after it are later than any
// that the lost part may have given out. So are those after a second recovery,
// later by the operators' clocks, also from a survivor that knows nothing of the
// first one: each second has a range of its own, as wide as the gap. An index that
// is not known may be given as 0.
func RecoveryCommand(index uint64, now time.Time) ([]byte, error) {
	by := uint64(recoveryGap)
	if seconds := now.Unix() - recoveryEpoch; seconds > 0 {
		if to := min(uint64(seconds), 1<<30) * recoveryGap; to > index {
			by = max(by, to-index)
		}
	}
	return encodeCommand(advanceCommand{by: by}, Nonce{})
}
