package wal

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// What moves is read in few reads, whatever the groups that it belongs to, and wherever it
// goes: the disk is asked for each of them.
func TestWhatMovesIsReadInFewReads(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		hot  bool
	}{{"to the newest segment", true}, {"to the cold store", false}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(o *Options) { o.SegmentSize, o.CacheBytes = 1<<20, 1 })
			const groups, each = 50, 10
			var numbers []uint64
			for range groups {
				numbers = append(numbers, r.group())
			}
			for i := uint64(1); i <= each; i++ { // those of a group stand far from each other
				for _, g := range numbers {
					r.must(Update{Group: g, Entries: entries(g, i, i, 1, 50), HardState: hard(1, 1, i)})
				}
			}
			if !test.hot {
				r.must(Update{Group: numbers[0], Entries: entries(numbers[0], each+1, each+10, 1, 8000), HardState: hard(1, 1, each+10)}) // too much to stay
				r.log.opts.HotBytes = 1
			}
			victim := r.log.order[0]
			if err := r.log.rollLocked(0); err != nil {
				t.Fatal(err)
			}
			if due, hot, _ := r.log.due(victim); !due || hot != test.hot {
				t.Fatalf("due %v, hot %v", due, hot)
			}
			reads := 0
			r.fs.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
				if op == vfs.OpRead {
					reads++
				}
				return nil
			})
			r.reclaimAll()
			r.fs.SetFault(nil)
			if most := 20; reads == 0 || reads > most {
				t.Errorf("%d reads for %d entries, want at most %d", reads, groups*each, most)
			}
			if n := r.cold.Len(); (n > 0) == test.hot || r.log.order[0] == victim {
				t.Fatalf("%d cold records, oldest segment %s", n, r.log.order[0].name)
			}
			r.crash(vfs.LoseAll)
			for _, g := range numbers[1:] {
				r.check(g, 1, each, 1, 50)
			}
		})
	}
}

// A group of which something cannot be read leaves nothing behind: the segments of what would
// have moved with it are closed when they go.
func TestRefusedMoveHoldsNoSegment(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.CacheBytes = 1 })
	g := r.group()
	r.must(Update{Group: g, Entries: entries(g, 1, 50, 1, 500), HardState: hard(1, 1, 40)})
	victim, at := r.log.order[0], int64(r.log.groups[g].places[44].off) // not committed
	r.log.opts.HotBytes = 1
	if err := r.log.rollLocked(0); err != nil {
		t.Fatal(err)
	}
	r.refuse(victim.name, at)
	var d *DamageError
	if _, err := r.log.Reclaim(); !errors.As(err, &d) || d.Index != 45 {
		t.Fatalf("reclaim: %v", err)
	}
	r.fs.SetFault(nil)
	r.reclaimAll()
	if n := victim.refs.Load(); r.log.order[0] == victim || n > 0 {
		t.Fatalf("oldest segment %s, %s is held by %d", r.log.order[0].name, victim.name, n)
	}
	r.check(g, 1, 50, 1, 500)
}

// refuse has the disk refuse to read a place.
func (r *rig) refuse(segment string, at int64) {
	r.fs.SetFault(func(op vfs.Op, file string, off, n int64) error {
		if op == vfs.OpRead && strings.HasPrefix(path.Base(file), segment) && off <= at && at < off+n {
			return errors.New("injected")
		}
		return nil
	})
}

// What the disk refuses is not given up while nothing presses: the segments have room.
func TestRefusedEntryWaitsWhileThereIsRoom(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.CacheBytes = 1 })
	quiet, other := r.group(), r.group()
	r.must(Update{Group: quiet, Entries: entries(quiet, 1, 5, 1, 100), HardState: hard(1, 1, 5)})
	r.must(Update{Group: other, Entries: entries(other, 1, 5, 1, 100), HardState: hard(1, 1, 5)})
	victim, at := r.log.order[0], int64(r.log.groups[quiet].places[2].off)
	r.must(Update{Group: other, Entries: entries(other, 6, 6, 1, 20<<10), HardState: hard(1, 1, 6)})
	r.must(Update{Group: other, Compact: &Mark{6, 1}})
	if err := r.log.rollLocked(0); err != nil {
		t.Fatal(err)
	}
	r.refuse(victim.name, at)
	for i := range 2 * maxRefusals {
		var d *DamageError
		if more, err := r.log.Reclaim(); more || !errors.As(err, &d) || d.Group != quiet || d.Index != 3 {
			t.Fatalf("attempt %d: %v, %v", i, more, err)
		}
	}
	r.fs.SetFault(nil)
	r.reclaimAll()
	if s := r.log.Stats(); s.Lost > 0 || r.log.order[0] == victim {
		t.Fatalf("%+v", s)
	}
	r.crash(vfs.LoseAll)
	r.check(quiet, 1, 5, 1, 100)
}

// What happens to groups between the moment when what moves was read and that when it is
// written again wins over what was read.
func TestGroupsChangeWhileTheirEntriesMove(t *testing.T) {
	t.Parallel()
	for _, hot := range []bool{true, false} {
		r := newRig(t, func(o *Options) { o.CacheBytes = 1 })
		var numbers []uint64
		for range 5 {
			g := r.group()
			numbers = append(numbers, g)
			r.must(Update{Group: g, Entries: entries(g, 1, 9, 1, 50), HardState: hard(1, 1, 5)})
		}
		same, overwritten, compacted, restarted, removed := numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
		victim := r.log.order[0]
		if err := r.log.rollLocked(0); err != nil {
			t.Fatal(err)
		}
		jobs, err := r.log.planMove(victim, hot)
		if err != nil || len(jobs) != len(numbers) {
			t.Fatalf("%d jobs, %v", len(jobs), err)
		}
		if err := r.log.putCold(jobs, nil); err != nil {
			t.Fatal(err)
		}
		r.must(Update{Group: overwritten, Entries: entries(overwritten, 7, 8, 1, 50), HardState: hard(2, 2, 5)}) // of the same term, and shorter
		r.must(Update{Group: compacted, HardState: hard(1, 1, 7), Compact: &Mark{7, 1}})
		r.must(Update{Group: restarted, HardState: hard(3, 0, 6), Compact: &Mark{6, 3}})
		r.must(Update{Group: restarted, Entries: entries(restarted, 7, 9, 3, 50)})
		r.must(Update{Group: removed, Remove: true})
		check := func() {
			t.Helper()
			r.check(same, 1, 9, 1, 50)
			r.check(overwritten, 1, 8, 1, 50)
			r.check(compacted, 8, 9, 1, 50)
			r.check(restarted, 7, 9, 3, 50)
			if st, err := r.log.State(overwritten); err != nil || st.HardState.GetVote() != 2 {
				t.Fatalf("vote: %+v, %v", st, err)
			}
			for _, g := range []uint64{compacted, restarted} {
				if st, err := r.log.State(g); err != nil || st.Compacted.Index+1 != map[uint64]uint64{compacted: 8, restarted: 7}[g] {
					t.Fatalf("%+v, %v", st, err)
				}
			}
			if _, err := r.log.State(removed); !errors.Is(err, ErrUnknownGroup) {
				t.Fatalf("removed group: %v", err)
			}
			if s := r.log.Suspects(); len(s) > 0 {
				t.Fatalf("suspects %+v", s)
			}
		}
		if err := r.log.carry(jobs); err != nil {
			t.Fatal(err)
		}
		check()
		if victim.live != 0 || victim.liveBytes != 0 || victim.bases != 0 {
			t.Fatalf("%d entries, %d bytes, %d states are left in the victim", victim.live, victim.liveBytes, victim.bases)
		}
		r.reclaimAll()
		if r.log.order[0] == victim {
			t.Fatal("the victim stays")
		}
		r.crash(vfs.LoseAll)
		check()
		r.reclaimAll() // what went cold in vain
		if want := map[bool]int{true: 0, false: 10}[hot]; r.cold.Len() != want {
			t.Fatalf("%d cold records, want %d", r.cold.Len(), want)
		}
	}
}

// Groups without number, whose states alone are more than a step, move step by step, and a
// loss of power after any of them loses nothing.
func TestManyGroupsMoveInSteps(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.SegmentSize, o.CacheBytes = 12<<20, 1 })
	const groups = 1300
	meta := make([]byte, 1000)
	var numbers []uint64
	var updates []Update
	for range groups {
		g := r.group()
		numbers = append(numbers, g)
		updates = append(updates, Update{Group: g, Entries: entries(g, 1, 4, 1, 20), HardState: hard(1, g%3, 2), Meta: meta})
	}
	r.must(updates...)
	for i := range uint64(7) { // so that it is worth it to move the states
		r.must(Update{Group: numbers[0], Entries: entries(numbers[0], 5+i, 5+i, 1, 1<<20), HardState: hard(1, 0, 5+i)})
	}
	r.must(Update{Group: numbers[0], Compact: &Mark{11, 1}})
	if err := r.log.rollLocked(0); err != nil {
		t.Fatal(err)
	}
	victim := r.log.order[0]
	steps := 0
	for more := true; more; steps++ {
		var err error
		if more, err = r.log.Reclaim(); err != nil {
			t.Fatal(err)
		}
		after := rig{t: t, fs: r.fs, cold: r.cold, opts: r.opts}
		after.crash(vfs.LoseAll)
		for _, g := range numbers[1:] {
			if st, err := after.log.State(g); err != nil || st.HardState.GetVote() != g%3 || len(st.Meta) != len(meta) || st.LastIndex != 4 {
				t.Fatalf("step %d, group %d: %+v, %v", steps, g, st, err)
			}
		}
		for i := 1; i < groups; i += 100 {
			after.check(numbers[i], 1, 4, 1, 20)
		}
		if err := after.log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if steps < 3 || r.log.order[0] == victim || r.cold.Len() > 0 {
		t.Fatalf("%d steps, %d cold records, %+v", steps, r.cold.Len(), r.log.Stats())
	}
}
