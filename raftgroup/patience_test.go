package raftgroup

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
)

// patientLeader is a raft that leads, with what its log and its followers have not
// answered yet. They answer when the test has them do so.
type patientLeader struct {
	t     *testing.T
	rng   *rand.Rand
	g     *Group
	store *raft.MemoryStorage
	own   [][]*raftpb.Message // answers of its log, oldest first
	acks  []*raftpb.Message
	said  int // messages to followers
}

func newPatientLeader(t *testing.T, rng *rand.Rand, voters ...uint64) *patientLeader {
	p := &patientLeader{t: t, rng: rng, store: raft.NewMemoryStorage()}
	conf := &raftpb.ConfState{Voters: voters, AutoLeave: new(bool)}
	if err := p.store.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{ConfState: conf, Index: u64(1), Term: u64(1)}}); err != nil {
		t.Fatal(err)
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID: 1, ElectionTick: 10, HeartbeatTick: 1, Storage: p.store, Applied: 1, AsyncStorageWrites: true,
		MaxInflightMsgs: 4, MaxSizePerMsg: 1 << 20, Logger: raftLogger{slog.New(slog.DiscardHandler)},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.g = &Group{self: id.Replica(1), rn: rn, state: &state{conf: conf, index: 1}, role: raft.StateLeader, hard: &raftpb.HardState{}, last: 1, errands: new(errands), duties: new(duties)}
	if err := rn.Campaign(); err != nil {
		t.Fatal(err)
	}
	for p.drain(); rn.BasicStatus().RaftState != raft.StateLeader; p.drain() {
		p.answer()
	}
	return p
}

// drain does what a step does with what raft has to say.
func (p *patientLeader) drain() {
	step := func(m *raftpb.Message) {
		if err := p.g.rn.Step(m); err != nil {
			p.t.Fatal(err)
		}
	}
	for p.g.rn.HasReady() {
		for _, m := range p.g.rn.Ready().Messages {
			switch m.GetTo() {
			case raft.LocalAppendThread:
				if m.Term != nil {
					p.g.hard = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
				}
				if n := len(m.GetEntries()); n > 0 {
					p.g.last = m.GetEntries()[n-1].GetIndex()
					if err := p.store.Append(m.GetEntries()); err != nil {
						p.t.Fatal(err)
					}
				} else if n := len(p.own); n > 0 {
					p.own[n-1] = append(p.own[n-1], m.GetResponses()...)
					continue
				}
				p.own = append(p.own, m.GetResponses())
			case raft.LocalApplyThread:
				p.g.state.index = m.GetEntries()[len(m.GetEntries())-1].GetIndex()
				for _, r := range m.GetResponses() {
					step(r)
				}
			default:
				p.tell(m)
			}
		}
	}
}

// tell has a follower answer, some time.
func (p *patientLeader) tell(m *raftpb.Message) {
	p.said++
	ack := &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), From: m.To, To: m.From, Term: m.Term, Index: u64(m.GetIndex() + uint64(len(m.GetEntries())))}
	if m.GetType() == raftpb.MsgVote {
		ack.Type = raftpb.MsgVoteResp.Enum()
	}
	p.acks = append(p.acks, ack)
}

// answer steps one answer, of the log or of a follower; false: there is none.
func (p *patientLeader) answer() bool {
	var all []*raftpb.Message
	switch n := len(p.own) + len(p.acks); {
	case n == 0:
		return false
	case len(p.own) > 0 && (len(p.acks) == 0 || p.rng.IntN(3) == 0):
		all, p.own = p.own[0], p.own[1:]
	default:
		all, p.acks = p.acks[:1], p.acks[1:]
	}
	for _, m := range all {
		if m.GetTo() != 1 {
			p.tell(m)
		} else if err := p.g.rn.Step(m); err != nil {
			p.t.Fatal(err)
		}
	}
	return true
}

// TestPatienceHidesNothing: whatever answers a leader bears to wait, stepping them
// commits nothing, applies nothing and says nothing; and those that it does not bear
// commit and apply all.
func TestPatienceHidesNothing(t *testing.T) {
	t.Parallel()
	waited := 0
	seeds(t, 30, func(t *testing.T, rng *rand.Rand) {
		p := newPatientLeader(t, rng, []uint64{1, 2, 3, 4, 5}[:1+rng.IntN(5)]...)
		for range 300 {
			if rng.IntN(4) == 0 {
				if err := p.g.rn.Propose([]byte("x")); err != nil {
					t.Fatal(err)
				}
				p.drain()
			}
			if rng.IntN(50) == 0 {
				p.g.rn.ReportUnreachable(2)
			}
			bears := int(p.g.bears())
			before, commit, applied := p.said, p.g.hard.GetCommit(), p.g.state.index
			n := 0
			for n < rng.IntN(bears+2) && n < bears && p.answer() {
				n++
			}
			if p.drain(); n > 0 && (p.said != before || p.g.hard.GetCommit() != commit || p.g.state.index != applied) {
				t.Fatalf("%d of %d answers have it say %d messages, commit %d after %d, and apply %d after %d", n, bears, p.said-before, p.g.hard.GetCommit(), commit, p.g.state.index, applied)
			}
			if waited += n; n == 0 {
				p.answer()
				p.drain()
			}
		}
		for p.answer() {
			p.drain()
		}
		if p.g.state.index != p.g.last {
			t.Fatalf("%d applied of %d", p.g.state.index, p.g.last)
		}
	})
	if waited == 0 {
		t.Error("nothing was borne")
	}
}

// TestPatientEvents: acknowledgements and answers of the log wait as long as the
// group bears them, and go with whatever does not wait.
func TestPatientEvents(t *testing.T) {
	t.Parallel()
	h := &Host{}
	h.ready.wake = sync.NewCond(&h.ready.mu)
	g := &Group{host: h}
	ack := event{message: &raftpb.Message{Type: raftpb.MsgAppResp.Enum()}}
	post := func(e event, want bool) {
		t.Helper()
		if g.post(e); g.mailbox.scheduled != want {
			t.Fatalf("scheduled %v, want %v", g.mailbox.scheduled, want)
		}
	}
	again := func(bears uint8) {
		g.mailbox = mailbox{bears: bears}
		h.ready.take(false)
	}
	again(0)
	post(ack, true)
	again(2)
	post(ack, false)
	post(event{appended: written}, false)
	post(ack, true)
	for name, e := range map[string]event{
		"a refusal":        {message: &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), Reject: new(true)}},
		"an append":        {message: &raftpb.Message{Type: raftpb.MsgApp.Enum()}},
		"a call":           {call: func() {}},
		"a failed append ": {appended: &appendResult{err: errors.New("no")}},
	} {
		t.Log(name)
		again(maxBears)
		post(ack, false)
		post(e, true)
	}
}

// TestTickLeftOut: of the ticks of a group in which all is well, every other one
// is left out, and none in one of which something was not heard.
func TestTickLeftOut(t *testing.T) {
	t.Parallel()
	h := &Host{}
	h.ready.wake = sync.NewCond(&h.ready.mu)
	for _, well := range []bool{true, false} {
		g := &Group{host: h, mailbox: mailbox{well: well}}
		got := 0
		for range 10 {
			g.tick()
			got += int(g.mailbox.ticks)
			g.mailbox.ticks = 0
		}
		if want := map[bool]int{true: 5, false: 10}[well]; got != want {
			t.Errorf("well %v: %d ticks of 10, want %d", well, got, want)
		}
	}
}

// TestPatienceInACrowdOnly: with few groups awake on the node nothing waits, and every
// tick counts, at a leader and at who follows: a dead leader is noticed as soon as ever.
func TestPatienceInACrowdOnly(t *testing.T) {
	t.Parallel()
	p := newPatientLeader(t, rand.New(rand.NewPCG(1, 2)), 1, 2, 3)
	for p.answer() {
		p.drain()
	}
	leader := p.g
	leader.lead = 1
	follower := &Group{rn: leader.rn, role: raft.StateFollower, lead: 2, heardLead: true}
	h := &Host{cfg: Config{}.withDefaults()}
	leader.host, follower.host = h, h
	for _, awake := range []int{1, h.cfg.Crowd - 1, h.cfg.Crowd} {
		h.awakes.Store(int32(awake))
		bears, _ := leader.patience()
		_, well := follower.patience()
		if crowd := awake == h.cfg.Crowd; (bears > 0) != crowd || well != crowd {
			t.Errorf("%d awake: %d answers wait, a tick is left out: %v", awake, bears, well)
		}
	}
}
