package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

func u64(v uint64) *uint64 { return &v }

func normal(index, term uint64, data []byte) *raftpb.Entry {
	return &raftpb.Entry{Index: u64(index), Term: u64(term), Type: raftpb.EntryNormal.Enum(), Data: data}
}

func TestValidateMessage(t *testing.T) {
	t.Parallel()
	good := encodeBatch(nil, 1, 1, 0, items("x"))
	node := nodeN(1)
	type change = func(m *raftpb.Message, f *Message)
	none := func(*raftpb.Message, *Message) {}
	conf := func(voters, learners []uint64) change {
		return func(m *raftpb.Message, _ *Message) {
			m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
				Index: u64(5), Term: u64(2), ConfState: &raftpb.ConfState{Voters: voters, Learners: learners, AutoLeave: new(bool)},
			}}
		}
	}
	data := func(list ...[]byte) change {
		return func(m *raftpb.Message, _ *Message) {
			m.Term = nil
			for _, d := range list {
				m.Entries = append(m.Entries, &raftpb.Entry{Data: d})
			}
		}
	}
	for _, c := range []struct {
		name   string
		typ    raftpb.MessageType
		change change
		ok     bool
	}{
		{"heartbeat", raftpb.MsgHeartbeat, none, true},
		{"for another replica", raftpb.MsgHeartbeat, func(m *raftpb.Message, _ *Message) { m.To = u64(9) }, false},
		{"frame for another replica", raftpb.MsgHeartbeat, func(_ *raftpb.Message, f *Message) { f.To = 9 }, false},
		{"sender and frame differ", raftpb.MsgHeartbeat, func(m *raftpb.Message, _ *Message) { m.From = u64(3) }, false},
		{"from itself", raftpb.MsgHeartbeat, func(m *raftpb.Message, f *Message) { m.From, f.From = u64(1), 1 }, false},
		{"from nobody", raftpb.MsgHeartbeat, func(m *raftpb.Message, f *Message) { m.From, f.From = nil, 0 }, false},
		{"heartbeat of term 0", raftpb.MsgHeartbeat, func(m *raftpb.Message, _ *Message) { m.Term = nil }, false},
		{"heartbeat with entries", raftpb.MsgHeartbeat, func(m *raftpb.Message, _ *Message) { m.Entries = []*raftpb.Entry{normal(1, 1, nil)} }, false},
		{"vote of term 0", raftpb.MsgVote, func(m *raftpb.Message, _ *Message) { m.Term = nil }, false},
		{"pre-vote of term 0", raftpb.MsgPreVote, func(m *raftpb.Message, _ *Message) { m.Term = nil }, false},
		{"answer to a vote of term 0", raftpb.MsgVoteResp, func(m *raftpb.Message, _ *Message) { m.Term = nil }, false},
		{"vote", raftpb.MsgVote, none, true},
		{"vote that a transfer forces", raftpb.MsgVote, func(m *raftpb.Message, _ *Message) { m.Context = []byte("CampaignTransfer") }, true},
		{"echo of a read", raftpb.MsgHeartbeatResp, func(m *raftpb.Message, _ *Message) { m.Context = make([]byte, 8) }, true},
		{"echo of nothing that was sent", raftpb.MsgHeartbeatResp, func(m *raftpb.Message, _ *Message) { m.Context = []byte("x") }, false},
		{"vote of a term that overflows", raftpb.MsgVote, func(m *raftpb.Message, _ *Message) { m.Term = u64(math.MaxUint64) }, false},
		{"commit that overflows", raftpb.MsgHeartbeat, func(m *raftpb.Message, _ *Message) { m.Commit = u64(1<<62 + 1) }, false},
		{"time-out now", raftpb.MsgTimeoutNow, none, true},

		{"proposal", raftpb.MsgProp, data(good), true},
		{"proposal of nothing", raftpb.MsgProp, data(), false},
		{"proposal without data", raftpb.MsgProp, data(nil), false},
		{"proposal, second is malformed", raftpb.MsgProp, data(good, good[:20]), false},
		{"proposal with a term", raftpb.MsgProp, func(m *raftpb.Message, f *Message) { data(good)(m, f); m.Term = u64(3) }, false},
		{"proposal of a newer format", raftpb.MsgProp, data([]byte{entryVersion + 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}), false},
		{"batch cut short", raftpb.MsgProp, data(good[:len(good)-1]), false},
		{"session of no node", raftpb.MsgProp, data(record(t, KindSessionOpen, &grouppb.SessionOpen{Nonce: nonceOf(1)})), false},
		{"intent for no node", raftpb.MsgProp, data(record(t, KindReplicaIntent, &grouppb.ReplicaIntent{Nonce: nonceOf(1)})), false},
		{"snapshot without a checksum", raftpb.MsgProp, data(record(t, KindSnapshotAnnounce, &grouppb.SnapshotAnnounce{Ref: &grouppb.SnapshotRef{Index: 1}, Node: node[:]})), false},
		{"record that is no message", raftpb.MsgProp, data(append(record(t, KindSessionClose, &grouppb.SessionClose{}), 0xff)), false},
		{"membership change", raftpb.MsgProp, func(m *raftpb.Message, f *Message) {
			data(good)(m, f)
			m.Entries[0].Type = raftpb.EntryConfChange.Enum()
		}, false},
		{"membership change, V2", raftpb.MsgProp, func(m *raftpb.Message, f *Message) {
			data(nil)(m, f)
			m.Entries[0].Type = raftpb.EntryConfChangeV2.Enum()
		}, false},

		{"read index", raftpb.MsgReadIndex, data([]byte("ctx")), false},
		{"answer to a read index", raftpb.MsgReadIndexResp, func(m *raftpb.Message, f *Message) { data(good)(m, f); m.Term = u64(3) }, false},

		{"append", raftpb.MsgApp, func(m *raftpb.Message, _ *Message) {
			m.Index, m.LogTerm = u64(4), u64(1)
			m.Entries = []*raftpb.Entry{normal(5, 1, good), normal(6, 3, nil)}
		}, true},
		{"append with a hole", raftpb.MsgApp, func(m *raftpb.Message, _ *Message) {
			m.Index, m.Entries = u64(4), []*raftpb.Entry{normal(6, 1, nil)}
		}, false},
		{"append of a later term than its own", raftpb.MsgApp, func(m *raftpb.Message, _ *Message) {
			m.Index, m.Entries = u64(4), []*raftpb.Entry{normal(5, 9, nil)}
		}, false},
		{"append with terms going back", raftpb.MsgApp, func(m *raftpb.Message, _ *Message) {
			m.Index, m.LogTerm, m.Entries = u64(4), u64(2), []*raftpb.Entry{normal(5, 1, nil)}
		}, false},
		{"append after a later term", raftpb.MsgApp, func(m *raftpb.Message, _ *Message) { m.Index, m.LogTerm = u64(4), u64(9) }, false},
		{"append of term 0", raftpb.MsgApp, func(m *raftpb.Message, _ *Message) { m.Term = nil }, false},
		{"append of an entry of term 0", raftpb.MsgApp, func(m *raftpb.Message, _ *Message) { m.Entries = []*raftpb.Entry{normal(1, 0, nil)} }, false},
		{"append beyond the last number", raftpb.MsgApp, func(m *raftpb.Message, _ *Message) {
			m.Index, m.LogTerm, m.Entries = u64(math.MaxUint64), u64(1), []*raftpb.Entry{normal(0, 1, nil)}
		}, false},
		{"append after index 0 of a term", raftpb.MsgApp, func(m *raftpb.Message, _ *Message) { m.LogTerm = u64(1) }, false},

		{"snapshot", raftpb.MsgSnap, conf([]uint64{1, 2}, []uint64{3}), true},
		{"snapshot without itself", raftpb.MsgSnap, func(m *raftpb.Message, _ *Message) { m.Snapshot = nil }, false},
		{"snapshot without a membership", raftpb.MsgSnap, func(m *raftpb.Message, f *Message) {
			conf(nil, nil)(m, f)
			m.Snapshot.Metadata.ConfState = nil
		}, false},
		{"snapshot of index 0", raftpb.MsgSnap, func(m *raftpb.Message, f *Message) {
			conf([]uint64{1}, nil)(m, f)
			m.Snapshot.Metadata.Index = nil
		}, false},
		{"snapshot of a later term", raftpb.MsgSnap, func(m *raftpb.Message, f *Message) {
			conf([]uint64{1}, nil)(m, f)
			m.Snapshot.Metadata.Term = u64(9)
		}, false},
		{"snapshot without voters", raftpb.MsgSnap, conf(nil, []uint64{1}), false},
		{"snapshot with a voter that learns", raftpb.MsgSnap, conf([]uint64{1, 2}, []uint64{2}), false},
		{"snapshot with a voter twice", raftpb.MsgSnap, conf([]uint64{1, 1}, nil), false},
		{"snapshot with replica 0", raftpb.MsgSnap, conf([]uint64{0, 1}, nil), false},
	} {
		m := &raftpb.Message{Type: c.typ.Enum(), From: u64(2), To: u64(1), Term: u64(3)}
		f := Message{From: 2, To: 1}
		c.change(m, &f)
		if err := validateMessage(m, f, 1); (err == nil) != c.ok || (err != nil && !errors.Is(err, errBadMessage)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// Types that are raft's own business, or nobody's.
	for typ := range raftpb.MessageType(40) {
		travels := []raftpb.MessageType{
			raftpb.MsgProp, raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
			raftpb.MsgSnap, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow,
		}
		m := &raftpb.Message{Type: typ.Enum(), From: u64(2), To: u64(1), Term: u64(3), Entries: []*raftpb.Entry{{Data: good}}}
		if err := validateMessage(m, Message{From: 2, To: 1}, 1); err == nil && !slices.Contains(travels, typ) {
			t.Errorf("%s is let in", typ)
		}
	}
	if err := validateMessage(&raftpb.Message{}, Message{}, 1); err == nil {
		t.Error("an empty message is let in")
	}
}

// hostileNode is a real raft node with a log of its own, behind the checks that
// a group makes.
type hostileNode struct {
	t       *testing.T
	rng     *rand.Rand
	rn      *raft.RawNode
	storage *raft.MemoryStorage
	echoes  echoes
}

func newHostileNode(t *testing.T, rng *rand.Rand) *hostileNode {
	storage := raft.NewMemoryStorage()
	voters := []uint64{1, 2, 3}
	if rng.IntN(4) == 0 {
		voters = []uint64{1}
	}
	snap := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: u64(3), Term: u64(1), ConfState: &raftpb.ConfState{Voters: voters, AutoLeave: new(bool)}}}
	if err := storage.ApplySnapshot(snap); err != nil {
		t.Fatal(err)
	}
	if err := storage.Append([]*raftpb.Entry{normal(4, 1, nil), normal(5, 2, nil), normal(6, 2, nil)}); err != nil {
		t.Fatal(err)
	}
	if err := storage.SetHardState(&raftpb.HardState{Term: u64(2), Vote: u64(0), Commit: u64(4)}); err != nil {
		t.Fatal(err)
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID: 1, ElectionTick: 10, HeartbeatTick: 1, Storage: storage, Applied: 3, MaxInflightMsgs: 8, MaxSizePerMsg: 1 << 20,
		CheckQuorum: true, PreVote: true, StepDownOnRemoval: true, Logger: &raft.DefaultLogger{Logger: quietLogger()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &hostileNode{t: t, rng: rng, rn: rn, storage: storage}
}

func (h *hostileNode) last() uint64 {
	last, err := h.storage.LastIndex()
	if err != nil {
		h.t.Fatal(err)
	}
	return last
}

// work does what raft asks for.
func (h *hostileNode) work() {
	for h.rn.HasReady() {
		rd := h.rn.Ready()
		if !raft.IsEmptySnap(rd.Snapshot) {
			if err := h.storage.ApplySnapshot(rd.Snapshot); err != nil && !errors.Is(err, raft.ErrSnapOutOfDate) {
				h.t.Fatal(err)
			}
		}
		if err := h.storage.Append(rd.Entries); err != nil {
			h.t.Fatal(err)
		}
		if !raft.IsEmptyHardState(rd.HardState) {
			if err := h.storage.SetHardState(rd.HardState); err != nil {
				h.t.Fatal(err)
			}
		}
		for _, m := range rd.Messages {
			if m.GetType() == raftpb.MsgHeartbeat {
				h.echoes.sent(m)
			}
		}
		h.rn.Advance(rd)
	}
}

// number is one that hurts where bounds are.
func (h *hostileNode) number() uint64 {
	st := h.rn.BasicStatus()
	some := []uint64{0, 1, 2, 3, 4, st.GetCommit(), st.GetCommit() + 1, h.last(), h.last() + 1, h.last() + 2, st.GetTerm(), st.GetTerm(), st.GetTerm() + 1}
	if h.rng.IntN(12) == 0 {
		return []uint64{math.MaxUint64, math.MaxUint64 - 1, 1 << 63, 1 << 40}[h.rng.IntN(4)]
	}
	return some[h.rng.IntN(len(some))]
}

func (h *hostileNode) message() *raftpb.Message {
	r := h.rng
	m := &raftpb.Message{
		Type: raftpb.MessageType(r.IntN(25)).Enum(), To: u64(1), From: u64(uint64(r.IntN(3) + 2)),
		Term: u64(h.number()), Index: u64(h.number()), LogTerm: u64(h.number()), Commit: u64(h.number()),
		Reject: new(r.IntN(2) == 0), RejectHint: u64(h.number()),
	}
	if r.IntN(2) == 0 {
		m.Term = u64(h.rn.BasicStatus().GetTerm())
	}
	if r.IntN(4) == 0 {
		m.Term = nil
	}
	if r.IntN(4) == 0 {
		m.Context = []byte("CampaignTransfer")[:[]int{0, 1, 8, 16}[r.IntN(4)]]
	}
	if r.IntN(3) == 0 { // a number of reads
		m.Context = binary.LittleEndian.AppendUint64(nil, h.echoes.upTo+uint64(r.IntN(3))-min(h.echoes.upTo, 1))
	}
	if r.IntN(2) == 0 {
		term := m.GetLogTerm()
		for i := range uint64(r.IntN(3)) {
			term = min(term+uint64(r.IntN(2)), max(m.GetTerm(), 1))
			m.Entries = append(m.Entries, normal(m.GetIndex()+1+i, term, encodeBatch(nil, 1, 1, 0, items("x"))))
		}
	}
	if r.IntN(3) == 0 {
		pick := func() (ids []uint64) {
			for range r.IntN(4) {
				ids = append(ids, uint64(r.IntN(5)))
			}
			return ids
		}
		cs := &raftpb.ConfState{Voters: pick(), AutoLeave: new(r.IntN(2) == 0)}
		if r.IntN(2) == 0 {
			cs.Learners, cs.VotersOutgoing, cs.LearnersNext = pick(), pick(), pick()
		}
		m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: u64(h.number()), Term: u64(h.number()), ConfState: cs}}
	}
	return m
}

// step does what a group does with a message that passed: it knows of itself what
// validateMessage does not.
func (h *hostileNode) step(m *raftpb.Message) string {
	if (owns{last: h.last(), leads: true, echoes: h.echoes}).contradicts(m) {
		return ""
	}
	return h.contain(func() { _ = h.rn.Step(m) }) // refusing is fine
}

// contain returns what raft panics with.
func (h *hostileNode) contain(f func()) (panicked string) {
	defer func() {
		if p := recover(); p != nil {
			panicked = fmt.Sprint(p)
		}
	}()
	f()
	h.work()
	return ""
}

// Messages that pass the validation, and the bounds that a group knows of its
// own log, do not make raft panic, then or later.
func TestHostileMessagesDoNotPanicRaft(t *testing.T) {
	t.Parallel()
	passed, panics := make(map[string]int), make(map[string]int)
	example := make(map[string]*raftpb.Message)
	seeds(t, 1500, func(t *testing.T, rng *rand.Rand) {
		h := newHostileNode(t, rng)
		if rng.IntN(2) == 0 {
			_ = h.rn.Campaign()
			h.work()
		}
		for range 120 {
			if rng.IntN(10) == 0 {
				if p := h.contain(func() { h.rn.Tick(); h.rn.ReadIndex([]byte("read")) }); p != "" {
					panics["later: "+p]++
					return
				}
				continue
			}
			m := h.message()
			if validateMessage(m, Message{From: id.Replica(m.GetFrom()), To: 1}, 1) != nil {
				continue
			}
			passed[m.GetType().String()]++
			shown := proto.Clone(m).(*raftpb.Message)
			if p := h.step(m); p != "" {
				key := m.GetType().String() + ": " + strings.Map(dropDigits, p)
				panics[key]++
				example[key] = shown
				return
			}
		}
	})
	t.Log(passed)
	for key, n := range panics {
		t.Errorf("%d × %s: %v", n, key, example[key])
	}
}

func dropDigits(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}
