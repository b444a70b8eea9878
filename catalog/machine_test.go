package catalog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

func structure(n uint64) (s id.Structure) {
	binary.BigEndian.PutUint64(s[:8], n+1)
	return s
}

func nodeID(n uint64) (i id.Node) {
	binary.BigEndian.PutUint64(i[:8], n+1)
	return i
}

func token(n uint64) (t raftgroup.Token) {
	binary.BigEndian.PutUint64(t[:8], n+1)
	return t
}

func members(n int) map[id.Replica]id.Node {
	m := make(map[id.Replica]id.Node)
	for i := range n {
		m[id.Replica(i+1)] = nodeID(uint64(i))
	}
	return m
}

func mustApply(t interface{ Fatal(...any) }, m *Machine, c command) Result {
	data, err := encodeCommand(c, Nonce{1})
	if err != nil {
		t.Fatal(err)
	}
	before := m.Index()
	res, err := m.Apply(data)
	if err != nil {
		t.Fatal(err)
	}
	if res.Nonce != (Nonce{1}) || res.Index != before+1 || m.Index() != before+1 {
		t.Fatal("nonce or index", res.Nonce, res.Index, before)
	}
	return res
}

func create(s, tok uint64, basis uint64) createCommand {
	return createCommand{structure: structure(s), token: token(tok), members: members(3), basis: basis}
}

// TestMachineStory is the life of one ID, told in order.
func TestMachineStory(t *testing.T) {
	t.Parallel()
	m := NewMachine()
	expect := func(c command, want Outcome, birth uint64) {
		t.Helper()
		res := mustApply(t, m, c)
		if res.Outcome != want || res.Record.Incarnation.Birth != birth {
			t.Fatalf("command %d came to %s with a record born at %d, want %s and %d", res.Index, res.Outcome, res.Record.Incarnation.Birth, want, birth)
		}
	}
	dead := abandonCommand{structure(1), token(9)}
	expect(dead, Abandoned, 0)
	expect(create(1, 9, 0), Abandoned, 0)                      // a late Create of an abandoned token
	expect(create(1, 1, 0), Created, 3)                        // the birth
	expect(create(1, 1, 0), Created, 3)                        // its retry
	expect(create(1, 2, 2), Exists, 3)                         // the loser
	expect(abandonCommand{structure(1), token(1)}, Created, 3) // a sweeper of the winner: start
	expect(deleteCommand{structure(1), 4}, Unknown, 3)
	hint := updateCommand{structure: structure(1), incarnation: id.Incarnation{Birth: 3}, asOf: 7, members: members(5)}
	expect(hint, Updated, 3)
	hint.asOf, hint.members = 6, members(1)
	expect(hint, Updated, 3)
	if r, _ := m.Record(structure(1)); len(r.Hint) != 5 || r.HintAsOf != 7 || len(r.Nodes()) != 5 {
		t.Fatalf("an older hint replaced a newer one: %+v", r)
	}
	expect(deleteCommand{structure(1), 3}, Deleted, 3)
	expect(deleteCommand{structure(1), 3}, Deleted, 3)
	expect(create(1, 1, 0), Abandoned, 3) // a copy of the winner's Create must not bear a ghost
	expect(create(1, 2, 2), Abandoned, 3) // nor one of the loser's
	expect(hint, Deleted, 3)
	expect(abandonCommand{structure(1), token(1)}, Abandoned, 3)
	expect(create(1, 3, 14), Created, 16) // another life
	expect(deleteCommand{structure(1), 3}, Deleted, 16)
	if r, _ := m.Record(structure(1)); !r.Lives() {
		t.Fatal("a late Delete of the first life ended the second")
	}
}

// TestMachineRefusesMalformed has every kind of nonsense move the index, and
// nothing else.
func TestMachineRefusesMalformed(t *testing.T) {
	t.Parallel()
	m := NewMachine()
	mustApply(t, m, create(1, 1, 0))
	before, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	even := create(2, 2, 0)
	even.members = members(2)
	gap := create(2, 2, 0)
	gap.members = map[id.Replica]id.Node{2: nodeID(1)}
	twice := create(2, 2, 0)
	twice.members = map[id.Replica]id.Node{1: nodeID(1), 2: nodeID(1), 3: nodeID(2)}
	own := create(2, 2, 0)
	own.structure = ID
	good, err := encodeCommand(create(2, 2, 0), Nonce{})
	if err != nil {
		t.Fatal(err)
	}
	cases := [][]byte{{}, {0}, {commandMagic}, {commandMagic, 0}, {commandMagic, 1}, {0x7f, 9, 9}, good[:len(good)-1], good[2:]}
	for _, c := range []command{even, gap, twice, own, createCommand{structure: structure(2)}, deleteCommand{structure(1), 0}, abandonCommand{}} {
		data, err := encodeCommand(c, Nonce{})
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, data)
	}
	for i, data := range cases {
		res, err := m.Apply(data)
		if err != nil || res.Outcome != Malformed || res.Index != uint64(i+2) {
			t.Fatalf("case %d: %+v, %v", i, res, err)
		}
	}
	m.index = 1
	if after, err := m.Snapshot(); err != nil || !bytes.Equal(before, after) {
		t.Fatalf("nonsense changed the state (%v)", err)
	}
}

func TestMachineRefusesNewer(t *testing.T) {
	t.Parallel()
	m := NewMachine()
	mustApply(t, m, create(1, 1, 0))
	if _, err := m.Apply([]byte{commandMagic, commandVersion + 1}); !errors.Is(err, ErrNewerFormat) || m.Index() != 1 {
		t.Fatalf("newer command: %v at index %d", err, m.Index())
	}
	if err := m.Restore([]byte{snapshotMagic, snapshotVersion + 1}); !errors.Is(err, ErrNewerFormat) || m.Index() != 1 {
		t.Fatalf("newer snapshot: %v at index %d", err, m.Index())
	}
	if err := m.Restore([]byte("no snapshot")); !errors.Is(err, ErrInvalid) || m.Index() != 1 {
		t.Fatalf("damaged snapshot: %v at index %d", err, m.Index())
	}
	if err := m.Restore(nil); err != nil || m.Index() != 0 || m.Records() != 0 {
		t.Fatalf("empty snapshot: %v, index %d", err, m.Index())
	}
	if data, err := m.Snapshot(); err != nil || len(data) != 0 {
		t.Fatalf("the empty machine has a snapshot of %d bytes (%v)", len(data), err)
	}
}

// TestOptionsSurvive fails when the engine's options get a field that the
// catalog would lose on the way to the nodes of a birth.
func TestOptionsSurvive(t *testing.T) {
	t.Parallel()
	var o raftgroup.Options
	v := reflect.ValueOf(&o).Elem()
	for i := range v.NumField() {
		f := v.Field(i)
		switch f.Kind() {
		case reflect.Uint32, reflect.Uint64:
			f.SetUint(uint64(i + 1))
		case reflect.String:
			f.SetString("a place")
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"one", "two"}))
		default:
			t.Fatalf("field %s: teach this test its kind", v.Type().Field(i).Name)
		}
	}
	if got := raftgroup.DecodeOptions(o.Encode()); !reflect.DeepEqual(got, o) {
		t.Fatalf("options %+v became %+v", o, got)
	}
}

// attempt is one token's life in the model.
type attempt struct {
	structure uint64
	token     uint64
	basis     uint64
	strict    bool
	after     uint64
	dead      bool // was told that it can never win, or its structure was deleted
	birth     uint64
}

// TestMachineModel lets creators, sweepers and deleters do anything in any
// order, with retries and duplicates as late as they like, on a machine that
// remembers next to nothing, and checks that a structure has one life at a time.
func TestMachineModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m, twin := NewMachine(), NewMachine()
		m.bound = rapid.IntRange(0, 4).Draw(t, "bound")
		twin.bound = m.bound
		var attempts []*attempt
		winner := make(map[[2]uint64]uint64) // structure, birth → token
		living := make(map[uint64]uint64)    // structure → birth
		deleted := make(map[uint64]uint64)   // structure → last birth deleted
		apply := func(c command) Result {
			data, err := encodeCommand(c, Nonce{1})
			if err != nil {
				t.Fatal(err)
			}
			res, err := m.Apply(data)
			if err != nil {
				t.Fatal(err)
			}
			if other, err := twin.Apply(data); err != nil || !reflect.DeepEqual(res, other) {
				t.Fatalf("twin: %+v against %+v (%v)", other, res, err)
			}
			return res
		}
		judge := func(a *attempt, res Result) {
			switch res.Outcome {
			case Created:
				b := res.Record.Incarnation.Birth
				if a.dead {
					t.Fatalf("dead token %d got the record born at %d", a.token, b)
				}
				if res.Record.Token != token(a.token) || res.Record.Structure != structure(a.structure) {
					t.Fatalf("token %d was told to start by the record of another", a.token)
				}
				key := [2]uint64{a.structure, b}
				if w, ok := winner[key]; ok && w != a.token {
					t.Fatalf("incarnation %d: tokens %d and %d both start", b, w, a.token)
				}
				if a.birth != 0 && a.birth != b {
					t.Fatalf("token %d was born twice", a.token)
				}
				if old, ok := living[a.structure]; ok && old != b {
					t.Fatalf("structure %d was born at %d while %d lives", a.structure, b, old)
				}
				if b <= deleted[a.structure] || b > res.Index {
					t.Fatalf("birth %d at index %d after the deletion of %d", b, res.Index, deleted[a.structure])
				}
				if b == res.Index && a.strict && a.after != deleted[a.structure] {
					t.Fatalf("token %d, to follow %d, was born after the deletion of %d", a.token, a.after, deleted[a.structure])
				}
				winner[key], living[a.structure], a.birth = a.token, b, b
			case Deleted:
				if b, ok := deleted[a.structure]; !ok || !a.strict || a.after == b {
					t.Fatalf("token %d (strict %t, after %d): the ID was said to be deleted, the last deletion is of %d", a.token, a.strict, a.after, b)
				}
				fallthrough
			case Exists, Abandoned, Stale:
				if _, ok := living[a.structure]; a.birth != 0 && ok && living[a.structure] == a.birth {
					t.Fatalf("token %d, which has the living record, was told %s", a.token, res.Outcome)
				}
				a.dead = true
			default:
				t.Fatalf("outcome %s", res.Outcome)
			}
		}
		some := func() *attempt { return attempts[rapid.IntRange(0, len(attempts)-1).Draw(t, "attempt")] }
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				a := &attempt{
					structure: rapid.Uint64Range(0, 2).Draw(t, "structure"), token: uint64(len(attempts)),
					basis:  rapid.Uint64Range(0, m.Index()).Draw(t, "basis"), // a holder may be behind
					strict: rapid.Bool().Draw(t, "strict"),
				}
				if a.strict && rapid.Bool().Draw(t, "follows") {
					a.after = deleted[a.structure]
				}
				attempts = append(attempts, a)
			},
			"create": func(t *rapid.T) {
				if len(attempts) == 0 {
					t.Skip("nobody")
				}
				a := some()
				c := create(a.structure, a.token, a.basis)
				c.strict, c.after = a.strict, a.after
				judge(a, apply(c))
			},
			"abandon": func(t *rapid.T) {
				if len(attempts) == 0 {
					t.Skip("nobody")
				}
				a := some()
				res := apply(abandonCommand{structure(a.structure), token(a.token)})
				judge(a, res)
			},
			"delete": func(t *rapid.T) {
				s := rapid.Uint64Range(0, 2).Draw(t, "structure")
				birth := rapid.Uint64Range(1, m.Index()+1).Draw(t, "birth")
				if b, ok := living[s]; ok && rapid.Bool().Draw(t, "exact") {
					birth = b
				}
				res := apply(deleteCommand{structure(s), birth})
				if b, ok := living[s]; ok && b == birth {
					if res.Outcome != Deleted {
						t.Fatalf("delete came to %s", res.Outcome)
					}
					delete(living, s)
					deleted[s] = b
					for _, a := range attempts {
						a.dead = a.dead || (a.structure == s && a.birth == b)
					}
				}
			},
			"hint": func(t *rapid.T) {
				s := rapid.Uint64Range(0, 2).Draw(t, "structure")
				c := updateCommand{structure: structure(s), incarnation: id.Incarnation{Birth: max(living[s], 1)}, asOf: m.Index(), members: members(2)}
				if _, ok := m.Record(structure(s)); ok && rapid.Bool().Draw(t, "described") {
					c.options = &raftgroup.Options{Voters: 5}
				}
				apply(c)
			},
			"advance": func(t *rapid.T) {
				by, before := rapid.Uint64Range(0, 5).Draw(t, "by"), m.Index()
				if res := apply(advanceCommand{by}); res.Index != before+1+by || m.Index() != res.Index {
					t.Fatalf("advance from %d by %d came to %d", before, by, res.Index)
				}
				before = m.Index()
				if apply(barrierCommand{}); m.Index() != before+1 {
					t.Fatalf("barrier at %d came to %d", before, m.Index())
				}
			},
			"restart": func(t *rapid.T) {
				data, err := m.Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				if err := m.Restore(data); err != nil {
					t.Fatal(err)
				}
				again, err := m.Snapshot()
				other, err2 := twin.Snapshot()
				if err != nil || err2 != nil || !bytes.Equal(data, again) || !bytes.Equal(data, other) {
					t.Fatalf("snapshots of the same state differ (%v, %v)", err, err2)
				}
			},
			"": func(t *rapid.T) {
				for s, b := range living {
					if r, ok := m.Record(structure(s)); !ok || !r.Lives() || r.Incarnation.Birth != b {
						t.Fatalf("structure %d: record %+v, the model says %d", s, r, b)
					}
				}
				if len(m.order) > m.bound || len(m.abandoned) != len(m.order) {
					t.Fatalf("%d tokens remembered, %d in order", len(m.abandoned), len(m.order))
				}
			},
		})
	})
}

// TestAdvanceNeverGoesBack: not even by a number that would run over.
func TestAdvanceNeverGoesBack(t *testing.T) {
	t.Parallel()
	m := NewMachine()
	for _, by := range []uint64{1, math.MaxUint64, math.MaxUint64 / 2, 0} {
		data, err := encodeCommand(advanceCommand{by}, Nonce{})
		if err != nil {
			t.Fatal(err)
		}
		before := m.Index()
		if _, err := m.Apply(data); err != nil || m.Index() < before || m.Index() > math.MaxUint64/2+10 {
			t.Fatalf("from %d by %d to %d, %v", before, by, m.Index(), err)
		}
	}
	data, err := RecoveryCommand(0, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	m = NewMachine()
	if _, err := m.Apply(data); err != nil || m.Index() != recoveryGap+1 {
		t.Fatalf("recovered at %d, %v", m.Index(), err)
	}
}

// TestRecordProvesADeletion: of the birth that it is about, if it says so; of an
// earlier one, unless the catalog was rebuilt in between; then of the one that it
// follows, as far as the catalog knew of that one's deletion.
func TestRecordProvesADeletion(t *testing.T) {
	t.Parallel()
	m := NewMachine()
	apply := func(c command) Result {
		t.Helper()
		data, err := encodeCommand(c, Nonce{})
		if err != nil {
			t.Fatal(err)
		}
		res, err := m.Apply(data)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	apply(advanceCommand{by: 10})
	first := apply(create(5, 1, m.Index())).Record
	if first.Ends(first.Incarnation.Birth) || first.Ends(first.Incarnation.Birth+1) || !first.Ends(first.Incarnation.Birth-1) {
		t.Errorf("of what lives: %+v", first)
	}
	dead := apply(deleteCommand{structure: structure(5), birth: first.Incarnation.Birth}).Record
	if !dead.Ends(first.Incarnation.Birth) {
		t.Errorf("of what is deleted: %+v", dead)
	}
	apply(advanceCommand{by: recoveryGap})
	again := create(5, 2, m.Index())
	again.strict, again.after = true, first.Incarnation.Birth
	next := apply(again).Record
	if !next.Lives() || next.Follows != first.Incarnation.Birth || !next.Ends(first.Incarnation.Birth) || next.Ends(first.Incarnation.Birth+1) {
		t.Errorf("of what it follows: %+v", next)
	}
	unknown := apply(create(6, 3, m.Index())).Record
	if !unknown.Lives() || unknown.Ends(first.Incarnation.Birth) {
		t.Errorf("of what the rebuilt catalog may have lost: %+v", unknown)
	}
	data, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	loaded := NewMachine()
	if err := loaded.Restore(data); err != nil {
		t.Fatal(err)
	}
	if got, _ := loaded.Record(structure(5)); got.Follows != next.Follows {
		t.Errorf("after a snapshot it follows %d", got.Follows)
	}
	gone := apply(deleteCommand{structure: structure(5), birth: next.Incarnation.Birth}).Record
	if !gone.Ends(next.Incarnation.Birth) || !gone.Ends(first.Incarnation.Birth) {
		t.Errorf("of both: %+v", gone)
	}
}

// TestTwoRecoveriesGiveOutNoBirthTwice: a catalog is rebuilt from a survivor, and
// gives out births; then from another one, that is behind and knows nothing of the
// first time. No birth comes twice, and the later recovery's births are later.
func TestTwoRecoveriesGiveOutNoBirthTwice(t *testing.T) {
	t.Parallel()
	rebuilt := func(index uint64, at time.Time) *Machine {
		m := NewMachine()
		data, err := encodeCommand(advanceCommand{index - 1}, Nonce{})
		if err == nil {
			_, err = m.Apply(data)
		}
		if err == nil {
			data, err = RecoveryCommand(m.Index(), at)
		}
		if err == nil {
			_, err = m.Apply(data)
		}
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	at := time.Date(2026, 11, 21, 22, 0, 0, 0, time.UTC)
	first := rebuilt(1000, at)
	second := rebuilt(900, at.Add(time.Second))
	if second.Index() < first.Index()+recoveryGap/2 {
		t.Errorf("births from %d on, and then from %d on", first.Index(), second.Index())
	}
	// And again from the first one: the gap holds, whatever the clock says.
	third := rebuilt(first.Index(), at.Add(-time.Hour))
	if third.Index() < first.Index()+recoveryGap {
		t.Errorf("births from %d on, and then from %d on", first.Index(), third.Index())
	}
}
