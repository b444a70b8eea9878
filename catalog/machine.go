package catalog

import (
	"errors"
	"fmt"
	"math"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/catalogpb"
	"github.com/copycat-replication/copycat/raftgroup"
)

// maxAbandoned bounds the abandoned tokens that the machine remembers. What is
// forgotten is not forgiven: see Machine.horizon.
const maxAbandoned = 10_000

// Outcome is what a command came to.
type Outcome uint8

const (
	// Malformed: the command makes no sense, and changed nothing.
	Malformed Outcome = iota
	// Created: the record names the token that was asked about; its replicas
	// are to be started. Whether it was this command that made the record or
	// an earlier copy of it does not matter.
	Created
	// Exists: another birth's record has the ID. The token that asked can
	// never succeed any more.
	Exists
	// Abandoned: the token has no record and can never get one.
	Abandoned
	// Stale: the command's basis is older than what the machine remembers.
	// The token can never succeed; a new one may.
	Stale
	// Deleted: the incarnation is deleted, by this command or before. Of a
	// create: the ID was deleted, and this is none that was asked to follow.
	Deleted
	// Unknown: there is no such incarnation.
	Unknown
	// Updated: the hint was taken, or a newer one is known; or the command had
	// nothing to ask for.
	Updated
)

var outcomeNames = [...]string{"malformed", "created", "exists", "abandoned", "stale", "deleted", "unknown", "updated"}

// String names the outcome in a word.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}

// Result is what applying one command came to.
type Result struct {
	Nonce   Nonce
	Index   uint64 // of the command
	Outcome Outcome
	Record  Record // the ID's record after the command; zero if there is none
}

// Machine is the catalog's state: a pure function of the commands applied to
// it, the same on every node. It is not safe for concurrent use.
type Machine struct {
	index   uint64
	records map[id.Structure]Record
	members *id.MemberSets // of the records, whose maps nobody changes

	// A token that lost, was abandoned, or whose structure was deleted, must
	// never get a record: a copy of its Create may still be on its way. The
	// set is bounded, oldest out first, and that is wholly safe: a Create
	// carries as its basis an index that the catalog had reached before the
	// token was made, so it is older than the token's own abandonment. When a
	// token is forgotten, horizon moves to the index of its abandonment, and
	// a Create with a basis before the horizon is refused as Stale. A Create
	// that was refused without need costs its sender one more attempt.
	abandoned map[raftgroup.Token]struct{}
	order     []abandonment // oldest first
	bound     int           // of them
	horizon   uint64
}

type abandonment struct {
	token raftgroup.Token
	index uint64
}

// NewMachine returns the machine before the first command.
func NewMachine() *Machine {
	return &Machine{
		records: make(map[id.Structure]Record), abandoned: make(map[raftgroup.Token]struct{}), bound: maxAbandoned, members: new(id.MemberSets),
	}
}

// Index is the number of commands applied so far.
func (m *Machine) Index() uint64 { return m.index }

// Record returns what the machine knows of a structure.
func (m *Machine) Record(s id.Structure) (Record, bool) {
	r, ok := m.records[s]
	return r, ok
}

// Records is the number of structures, deleted ones included.
func (m *Machine) Records() int { return len(m.records) }

// Apply applies the next command of the log. Whatever it is, it moves the
// index by one, also when it makes no sense. The only error is ErrNewerFormat:
// then nothing has changed, and nothing may be applied after it, since the
// newer nodes know what it means and this one does not.
func (m *Machine) Apply(command []byte) (Result, error) {
	cmd, nonce, err := decodeCommand(command)
	if errors.Is(err, ErrNewerFormat) {
		return Result{}, fmt.Errorf("catalog command %d: %w", m.index+1, err)
	}
	m.index++
	res := Result{Nonce: nonce, Index: m.index}
	if err != nil {
		return res, nil //nolint:nilerr // malformed alike for every replica: no effect
	}
	switch cmd := cmd.(type) {
	case createCommand:
		res.Outcome = m.create(cmd)
	case abandonCommand:
		res.Outcome = m.abandonToken(cmd)
	case deleteCommand:
		res.Outcome = m.delete(cmd)
	case updateCommand:
		res.Outcome = m.update(cmd)
	case advanceCommand:
		if end := uint64(math.MaxUint64 >> 1); m.index < end { // never back, and never over the end
			m.index += min(cmd.by, end-m.index)
		}
		// Which tokens were abandoned in the part of the log that was lost, nobody
		// knows any more: no create from before may succeed.
		m.horizon = m.index
		res.Index, res.Outcome = m.index, Updated
	case barrierCommand:
		res.Outcome = Updated
	}
	res.Record = m.records[cmd.about()]
	return res, nil
}

func (m *Machine) create(c createCommand) Outcome {
	rec, ok := m.records[c.structure]
	lives := ok && rec.Lives()
	_, dead := m.abandoned[c.token]
	switch {
	case lives && rec.Token == c.token:
		return Created
	case lives:
		m.abandon(c.token)
		return Exists
	case dead:
		return Abandoned
	case ok && c.strict && c.after != rec.Incarnation.Birth:
		m.abandon(c.token) // a late subscriber does not bring back what was deleted
		return Deleted
	case c.basis < m.horizon || c.basis >= m.index:
		return Stale
	}
	m.records[c.structure] = Record{
		Structure: c.structure, Incarnation: id.Incarnation{Birth: m.index},
		Token: c.token, Members: m.members.Share(c.members), Options: c.options, Follows: rec.Incarnation.Birth, // which is deleted, if there is one
	}
	return Created
}

func (m *Machine) abandonToken(c abandonCommand) Outcome {
	if rec, ok := m.records[c.structure]; ok && rec.Lives() && rec.Token == c.token {
		return Created
	}
	m.abandon(c.token)
	return Abandoned
}

func (m *Machine) delete(c deleteCommand) Outcome {
	rec, ok := m.records[c.structure]
	switch {
	case !ok || rec.Incarnation.Birth < c.birth:
		return Unknown
	case rec.Incarnation.Birth > c.birth || !rec.Lives():
		return Deleted // before: births only grow, and an ID is free only after a deletion
	}
	if rec.Token != (raftgroup.Token{}) {
		m.abandon(rec.Token)
	}
	m.records[c.structure] = Record{Structure: rec.Structure, Incarnation: rec.Incarnation, Deleted: m.index, Follows: rec.Follows}
	return Deleted
}

func (m *Machine) update(c updateCommand) Outcome {
	rec, ok := m.records[c.structure]
	switch {
	case (!ok || rec.Incarnation.Birth < c.incarnation.Birth) && c.options != nil && c.incarnation.Birth <= m.index:
		// Born in a part of the log that was lost when the catalog was rebuilt.
		follows := rec.Follows
		if rec.Deleted != 0 {
			follows = rec.Incarnation.Birth
		}
		rec = Record{Structure: c.structure, Follows: follows}
	case !ok || rec.Incarnation.Birth < c.incarnation.Birth:
		return Unknown
	case rec.Incarnation.Birth > c.incarnation.Birth || !rec.Lives():
		return Deleted
	case c.incarnation.Recovery < rec.Incarnation.Recovery:
		return Updated
	case c.incarnation.Recovery == rec.Incarnation.Recovery && c.asOf <= rec.HintAsOf:
		return Updated
	}
	rec.Incarnation, rec.Hint, rec.HintAsOf = c.incarnation, m.members.Share(c.members), c.asOf
	if c.options != nil {
		rec.Options = *c.options
	}
	m.records[c.structure] = rec
	return Updated
}

// abandon makes sure that a token never gets a record, and keeps the set bounded.
func (m *Machine) abandon(t raftgroup.Token) {
	if _, ok := m.abandoned[t]; ok {
		return
	}
	m.abandoned[t] = struct{}{}
	m.order = append(m.order, abandonment{token: t, index: m.index})
	for len(m.order) > m.bound {
		m.horizon = max(m.horizon, m.order[0].index)
		delete(m.abandoned, m.order[0].token)
		m.order = m.order[1:] // append moves to a new array now and then, which frees the head
	}
}

// fromProto makes a command of its message, and refuses what makes no sense.
func fromProto(m *catalogpb.Command, version byte) (command, error) {
	var out []command
	var err error
	add := func(c command, e error) {
		out = append(out, c)
		if e != nil && err == nil {
			err = e
		}
	}
	if m.Create != nil {
		add(decodeCreate(m.Create, version))
	}
	if m.Abandon != nil {
		add(decodeAbandon(m.Abandon))
	}
	if m.Delete != nil {
		add(decodeDelete(m.Delete))
	}
	if m.UpdateMembers != nil {
		add(decodeUpdate(m.UpdateMembers, version))
	}
	if m.Advance != nil && version >= 2 {
		add(advanceCommand{by: m.Advance.By}, nil)
	}
	if m.Barrier != nil && version >= 2 {
		var c barrierCommand
		var err error
		if len(m.Barrier.Structure) > 0 {
			c.structure, err = decodeStructure(m.Barrier.Structure)
		}
		add(c, err)
	}
	if err != nil {
		return nil, err
	}
	if len(out) != 1 {
		return nil, fmt.Errorf("%w: a command with %d bodies", ErrInvalid, len(out))
	}
	return out[0], nil
}
