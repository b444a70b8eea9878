package wal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"
)

// modelGroup is what a group must hold.
type modelGroup struct {
	entries []*raftpb.Entry // from mark.Index+1 on
	mark    Mark
	hs      *raftpb.HardState
	meta    []byte
}

func (m *modelGroup) last() uint64 { return m.mark.Index + uint64(len(m.entries)) }

func (m *modelGroup) commit() uint64 { return max(m.mark.Index, m.hs.GetCommit()) }

func (m *modelGroup) term(index uint64) uint64 {
	if index == m.mark.Index {
		return m.mark.Term
	}
	return m.entries[index-m.mark.Index-1].GetTerm()
}

type model map[uint64]*modelGroup

func (m model) clone() model {
	c := model{}
	for n, g := range m {
		h := *g
		h.entries = slices.Clone(g.entries)
		c[n] = &h
	}
	return c
}

func (m model) apply(u *Update) {
	if u.Remove {
		delete(m, u.Group)
		return
	}
	g := m[u.Group]
	if g == nil {
		g = &modelGroup{}
		m[u.Group] = g
	}
	if c := u.Compact; c != nil && c.Index > g.mark.Index {
		if c.Index <= g.last() && g.term(c.Index) == c.Term {
			g.entries = slices.Clone(g.entries[c.Index-g.mark.Index:])
		} else {
			g.entries = nil
		}
		g.mark = *c
	}
	if len(u.Entries) > 0 {
		keep := u.Entries[0].GetIndex() - g.mark.Index - 1
		g.entries = append(slices.Clone(g.entries[:keep]), u.Entries...)
	}
	if u.HardState != nil {
		g.hs = u.HardState
	}
	if u.Meta != nil {
		g.meta = u.Meta
	}
}

// machine drives a log and a model with the same steps.
type machine struct {
	t       *rapid.T
	rig     *rig
	durable model // what is acknowledged
	want    model // that, and what is queued
	queued  []Update
	fresh   []uint64 // numbers without an update
	highest uint64
	dead    bool // a fault has struck
	life    int
}

func (m *machine) groupNumber() (uint64, bool) {
	all := slices.Sorted(maps.Keys(m.want))
	all = append(all, m.fresh...)
	if len(all) == 0 {
		return 0, false
	}
	return rapid.SampledFrom(all).Draw(m.t, "group"), true
}

func (m *machine) newGroup(t *rapid.T) {
	if len(m.want)+len(m.fresh) >= 6 {
		t.Skip()
	}
	n, err := m.rig.log.NewGroup()
	if err != nil {
		if m.dead {
			return
		}
		t.Fatalf("new group: %v", err)
	}
	if n <= m.highest {
		t.Fatalf("group number %d after %d", n, m.highest)
	}
	m.highest = n
	m.fresh = append(m.fresh, n)
}

func (m *machine) submit(t *rapid.T) {
	n, ok := m.groupNumber()
	if !ok {
		t.Skip()
	}
	u := Update{Group: n}
	g := m.want[n]
	if g == nil {
		g = &modelGroup{}
	}
	kind := rapid.IntRange(0, 9).Draw(t, "kind")
	last, commit, term := g.last(), g.commit(), g.hs.GetTerm()
	if kind == 9 && rapid.IntRange(0, 3).Draw(t, "sure") == 0 {
		u.Remove = true
	}
	if kind == 8 {
		// Compaction, or an install beyond the end.
		i := rapid.Uint64Range(g.mark.Index, last+5).Draw(t, "mark")
		c := Mark{Index: i, Term: term + 1}
		if i <= last {
			c.Term = g.term(i)
			if i > commit {
				i = commit
				c = Mark{i, g.term(i)}
			}
		}
		u.Compact = &c
		if c.Index > last {
			last = c.Index
		}
		commit = max(commit, c.Index)
	}
	if kind < 8 {
		term += rapid.Uint64Range(0, 1).Draw(t, "term")
		first := last + 1
		if rapid.IntRange(0, 3).Draw(t, "overwrite") == 0 {
			first = rapid.Uint64Range(commit+1, last+1).Draw(t, "first")
		}
		count := rapid.IntRange(0, 6).Draw(t, "entries")
		for i := range uint64(count) {
			u.Entries = append(u.Entries, entry(n, first+i, term, rapid.SampledFrom([]int{0, 1, 30, 300, 3000}).Draw(t, "size")))
		}
		if count > 0 {
			last = first + uint64(count) - 1
		}
	}
	if u.Compact != nil || rapid.Bool().Draw(t, "hard state") {
		u.HardState = hard(term, rapid.Uint64Range(0, 3).Draw(t, "vote"), rapid.Uint64Range(commit, last).Draw(t, "commit"))
	}
	if rapid.IntRange(0, 5).Draw(t, "with meta") == 0 {
		u.Meta = rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "meta")
	}
	if u.Remove {
		u = Update{Group: n, Remove: true}
	}
	m.want.apply(&u)
	m.fresh = slices.DeleteFunc(m.fresh, func(f uint64) bool { return f == n })
	m.queued = append(m.queued, u)
	life := m.life
	m.rig.log.Submit([]Update{u}, func(err error) {
		if life != m.life {
			return
		}
		if err == nil {
			m.durable.apply(&u)
			i := slices.IndexFunc(m.queued, func(q Update) bool { return q.Group == u.Group })
			m.queued = slices.Delete(m.queued, i, i+1) // a group's updates are answered in order
		} else if !m.dead {
			panic(fmt.Sprintf("update refused: %v", err))
		}
	})
}

func (m *machine) flush(t *rapid.T) {
	for {
		n, err := m.rig.log.Flush()
		if err != nil && !m.dead {
			t.Fatalf("flush: %v", err)
		}
		if n == 0 {
			break
		}
	}
	if len(m.queued) > 0 && !m.dead {
		t.Fatalf("%d updates were not answered", len(m.queued))
	}
}

func (m *machine) seal(t *rapid.T) {
	if err := m.rig.log.Seal(); err != nil && !m.dead {
		t.Fatalf("seal: %v", err)
	}
}

func (m *machine) reclaim(t *rapid.T) {
	for range rapid.IntRange(1, 5).Draw(t, "steps") {
		more, err := m.rig.log.Reclaim()
		if err != nil && !m.dead {
			t.Fatalf("reclaim: %v", err)
		}
		if !more {
			break
		}
	}
}

// move is a step of Reclaim, due or not, with updates between the moment when what
// moves was read and that when it is written again.
func (m *machine) move(t *rapid.T) {
	l := m.rig.log
	if m.dead || len(l.order) < 2 || l.emptyTrash() != nil {
		t.Skip()
	}
	jobs, err := l.planMove(l.order[0], rapid.Bool().Draw(t, "hot"))
	if err == nil {
		err = l.putCold(jobs, nil)
	}
	if err != nil {
		t.Fatalf("plan: %v", err)
	}
	for range rapid.IntRange(0, 4).Draw(t, "updates") {
		if len(m.want)+len(m.fresh) > 0 {
			m.submit(t)
		}
	}
	m.flush(t)
	if err := l.carry(jobs); err != nil {
		t.Fatalf("carry: %v", err)
	}
	m.reclaim(t)
}

func (m *machine) reopen(t *rapid.T) {
	if m.dead {
		t.Skip()
	}
	m.flush(t)
	m.rig.reopen()
	m.fresh = nil
}

// crash loses power: what is queued is gone, and if a fault struck in the
// middle of a batch, that batch may be there or not, but only as a whole.
func (m *machine) crash(t *rapid.T) {
	seed := rapid.Uint64().Draw(t, "crash")
	old, coldBefore := m.rig.log, m.rig.cold
	m.rig.fs, m.rig.cold = m.rig.fs.Crash(seed), coldBefore.Crash()
	m.dead = true
	m.life++
	_ = old.Close()
	m.rig.opts.Entropy = nil
	m.rig.open()
	// Every group may have got any prefix of what it waits for.
	next := m.durable.clone()
	for _, u := range m.queued {
		next.apply(&u)
		if m.matches(u.Group, next) && !m.matches(u.Group, m.durable) {
			if delete(m.durable, u.Group); next[u.Group] != nil {
				m.durable[u.Group] = next.clone()[u.Group]
			}
		}
	}
	if d := m.difference(m.durable); d != "" {
		t.Fatalf("after a crash: %s", d)
	}
	m.dead = false
	m.want, m.queued, m.fresh = m.durable.clone(), nil, nil
}

// fault arms a failure of everything from the n-th operation on.
func (m *machine) fault(t *rapid.T) {
	m.flush(t)
	left := rapid.IntRange(0, 12).Draw(t, "operations")
	m.rig.fs.SetFault(func(op vfs.Op, name string, off, n int64) error {
		if op == vfs.OpRead || op == vfs.OpFree {
			return nil
		}
		if left--; left >= 0 {
			return nil
		}
		m.dead = true
		if op == vfs.OpWrite && n > 1 {
			return &vfs.PartialWrite{N: int(n / 2), Err: errors.New("injected")}
		}
		return errors.New("injected")
	})
	for range rapid.IntRange(0, 2).Draw(t, "before") {
		m.reclaim(t)
	}
	// One batch at most may be in doubt: all of these go into one.
	for range rapid.IntRange(0, 4).Draw(t, "updates") {
		if !m.dead && len(m.want)+len(m.fresh) > 0 {
			m.submit(t)
		}
	}
	m.flush(t)
	m.reclaim(t)
	m.rig.fs.SetFault(nil)
	m.crash(t)
}

func (m *machine) check(t *rapid.T) {
	if m.dead {
		return
	}
	if d := m.difference(m.durable); d != "" {
		t.Fatal(d)
	}
}

func (m *machine) matches(n uint64, want model) bool {
	st, err := m.rig.log.State(n)
	g := want[n]
	if err != nil || g == nil {
		return err != nil && g == nil
	}
	return m.groupDifference(st, g) == ""
}

// difference compares the log with a model.
func (m *machine) difference(want model) string {
	l := m.rig.log
	if s := l.Suspects(); len(s) > 0 {
		return fmt.Sprintf("suspects: %+v", s)
	}
	if d := l.Damages(); len(d) > 0 {
		return fmt.Sprintf("damages: %v", d)
	}
	groups := l.Groups()
	if len(groups) != len(want) {
		return fmt.Sprintf("%d groups, want %d", len(groups), len(want))
	}
	for _, st := range groups {
		g := want[st.Group]
		if g == nil {
			return fmt.Sprintf("group %d is there", st.Group)
		}
		if d := m.groupDifference(st, g); d != "" {
			return fmt.Sprintf("group %d: %s", st.Group, d)
		}
	}
	return ""
}

func (m *machine) groupDifference(st GroupState, g *modelGroup) string {
	l, n := m.rig.log, st.Group
	if st.Compacted != g.mark || st.LastIndex != g.last() || !bytes.Equal(st.Meta, g.meta) || (st.Meta == nil) != (g.meta == nil) {
		return fmt.Sprintf("state %+v, want mark %v last %d meta %q", st, g.mark, g.last(), g.meta)
	}
	if (st.HardState == nil) != (g.hs == nil) || st.HardState.GetTerm() != g.hs.GetTerm() ||
		st.HardState.GetVote() != g.hs.GetVote() || st.HardState.GetCommit() != g.hs.GetCommit() {
		return fmt.Sprintf("hard state %v, want %v", st.HardState, g.hs)
	}
	for i := g.mark.Index; i <= g.last(); i++ {
		if term, err := l.Term(n, i); err != nil || term != g.term(i) {
			return fmt.Sprintf("term of %d is %d (%v), want %d", i, term, err, g.term(i))
		}
	}
	if _, err := l.Entries(n, g.mark.Index, g.mark.Index+1, 1); !errors.Is(err, ErrCompacted) {
		return fmt.Sprintf("entry at the mark: %v", err)
	}
	if _, err := l.Term(n, g.last()+1); !errors.Is(err, ErrUnavailable) {
		return fmt.Sprintf("term beyond the end: %v", err)
	}
	got, err := m.rig.all(n, g.mark.Index+1, g.last()+1)
	if err != nil || len(got) != len(g.entries) {
		return fmt.Sprintf("%d entries (%v), want %d", len(got), err, len(g.entries))
	}
	for i, e := range got {
		w := g.entries[i]
		if e.GetIndex() != w.GetIndex() || e.GetTerm() != w.GetTerm() || e.GetType() != w.GetType() || !bytes.Equal(e.Data, w.Data) {
			return fmt.Sprintf("entry %d differs", w.GetIndex())
		}
	}
	if err := l.VerifyCold(n); err != nil {
		return err.Error()
	}
	return ""
}

// TestModel runs random steps, with crashes and faults, against a plain map.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{t: rt, durable: model{}, want: model{}}
		m.rig = newRig(t, func(o *Options) {
			o.SegmentSize = 16 << 10
			o.HotBytes = 40 << 10
			o.CacheBytes = int64(rapid.SampledFrom([]int{1, 4 << 10, 1 << 20}).Draw(rt, "cache"))
			o.GroupQuota = 2 << 10
		})
		defer func() {
			_ = m.rig.log.Close()
			m.rig.log = nil
		}()
		rt.Repeat(map[string]func(*rapid.T){
			"new group": m.newGroup,
			"submit":    m.submit,
			"submit 2":  m.submit,
			"submit 3":  m.submit,
			"flush":     m.flush,
			"flush 2":   m.flush,
			"seal":      m.seal,
			"reclaim":   m.reclaim,
			"move":      m.move,
			"reopen":    m.reopen,
			"crash":     m.crash,
			"fault":     m.fault,
			"":          m.check,
		})
	})
}
