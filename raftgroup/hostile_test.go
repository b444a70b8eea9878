package raftgroup

import (
	"context"
	"encoding/binary"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
)

// hostileStage is a group of so many replicas, of which the one on node 1 leads,
// and the story tells what comes from node 2 over the network.
func hostileStage(t *testing.T, replicas int) *stage { return startHostile(t, newStage(t, replicas)) }

func startHostile(t *testing.T, s *stage) *stage {
	replicas := len(s.nodes)
	t.Cleanup(s.finish)
	for _, n := range s.nodes {
		if err := n.start(); err != nil {
			t.Fatal(err)
		}
	}
	members := make(map[id.Replica]id.Node)
	for i := range replicas {
		members[id.Replica(i+1)] = nodeN(i + 1)
	}
	if err := s.found(Genesis{Group: id.Group{Structure: id.Structure{7}}, Members: members, Token: Token{1}}); err != nil {
		t.Fatal(err)
	}
	if err := s.inStep(s.nodes[0], func(g *Group) {
		if err := g.rn.Campaign(); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	s.settle()
	if s.leader() != s.nodes[0] {
		t.Fatal("node 1 does not lead")
	}
	return s
}

// replicaOf is a node's replica, between its steps.
func (s *stage) replicaOf(n *stageNode) *Group {
	g, ok := n.host.Group(s.genesis.Group.Structure)
	if !ok {
		s.t.Fatalf("node %d has no replica", n.n)
	}
	return g
}

// forge has a node take messages that claim to be another replica's, all in one step.
func (s *stage) forge(to *stageNode, messages ...*raftpb.Message) {
	s.t.Helper()
	g := s.replicaOf(to)
	for _, m := range messages {
		m.To = u64(uint64(g.self))
		body, err := proto.Marshal(m)
		if err != nil {
			s.t.Fatal(err)
		}
		from := id.Replica(m.GetFrom())
		to.host.HandleMessage(s.nodes[from-1].id, Message{Group: g.key, From: from, To: g.self, Payload: append([]byte{wireRaft}, body...)})
	}
	s.settle()
	if g.failure != nil {
		s.t.Fatalf("the replica has stopped: %v", g.failure)
	}
}

// TestEchoOfReadsNobodyAskedFor: who holds the cluster's key acknowledges more
// reads than the leader has asked about. Raft, which counts the acknowledgements,
// would cut more off its list than there is.
func TestEchoOfReadsNobodyAskedFor(t *testing.T) {
	t.Parallel()
	s := hostileStage(t, 3)
	leader := s.nodes[0]
	echo := func(from, upTo uint64) *raftpb.Message {
		return &raftpb.Message{
			Type: raftpb.MsgHeartbeatResp.Enum(), From: u64(from), Term: u64(s.replicaOf(leader).term()),
			Context: binary.LittleEndian.AppendUint64(nil, upTo),
		}
	}
	s.forge(leader, echo(2, 5), echo(3, 5))
	confirmed := 0
	confirm := func() {
		if err := s.inStep(leader, func(g *Group) { g.confirm(func(err error) { confirmed++; _ = err }) }); err != nil {
			t.Fatal(err)
		}
	}
	confirm()
	s.settle()
	if confirmed != 1 {
		t.Fatalf("%d of 1 read confirmed", confirmed)
	}
	s.forge(leader, echo(2, 2), echo(3, 2))
	confirm()
	s.forge(leader, echo(2, 3), echo(3, 1<<63))
	if confirmed != 2 {
		t.Fatalf("%d of 2 reads confirmed", confirmed)
	}
	// Those of another term mean nothing.
	if err := s.inStep(s.nodes[1], func(g *Group) {
		if err := g.rn.Campaign(); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	s.settle()
	leader = s.leader()
	s.forge(leader, echo(1, 1), echo(3, 2), echo(1, 2))
}

// TestHeartbeatBehindACutLog: a leader that is none cuts off what it has sent
// before, and says in the same breath that all of it is committed.
func TestHeartbeatBehindACutLog(t *testing.T) {
	t.Parallel()
	s := hostileStage(t, 3)
	victim := s.nodes[2]
	g := s.replicaOf(victim)
	last, term := g.last, g.term()
	s.cuts = []link{{from: victim.n}} // what it answers would confuse the others
	long := &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: u64(2), Term: u64(term + 1), Index: u64(last), LogTerm: u64(term), Commit: u64(last)}
	for i := range uint64(5) {
		long.Entries = append(long.Entries, normal(last+1+i, term+1, nil))
	}
	s.forge(victim, long)
	if g.last != last+5 {
		t.Fatalf("the log ends at %d, not at %d", g.last, last+5)
	}
	s.forge(victim,
		&raftpb.Message{Type: raftpb.MsgApp.Enum(), From: u64(2), Term: u64(term + 2), Index: u64(last), LogTerm: u64(term), Entries: []*raftpb.Entry{normal(last+1, term+2, nil)}},
		&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: u64(2), Term: u64(term + 2), Commit: u64(last + 5)})
	if g.last != last+1 {
		t.Fatalf("the log ends at %d, not at %d", g.last, last+1)
	}
}

// TestRefusedMessagesDoNotFillTheLog: a node of another version sends what this one
// does not know with each heartbeat, and one that is broken or worse what it does
// not believe. Both are told of now and then.
func TestRefusedMessagesDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	s := newStage(t, 3)
	var log countingHandler
	s.tune = func(cfg *Config) {
		if cfg.Node == nodeN(1) {
			cfg.Logger = slog.New(&log)
		}
	}
	startHostile(t, s)
	g := s.replicaOf(s.nodes[0])
	log.lines.Store(0)
	said := func(group id.Group, payload ...byte) {
		s.nodes[0].host.HandleMessage(nodeN(2), Message{Group: group, From: 2, To: g.self, Payload: payload})
	}
	for range 1000 {
		said(g.key, 200)
		said(g.key, wireRaft, 0xff)
		said(id.Group{}, 200)
	}
	for range 300 {
		s.forge(s.nodes[0], &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), From: u64(2), Term: u64(g.term()), Index: u64(g.last + 1000)})
	}
	if n := log.lines.Load(); n != complaintLines {
		t.Errorf("%d lines about one node", n)
	}
	s.nodes[0].host.HandleMessage(nodeN(3), Message{Group: g.key, From: 3, To: g.self, Payload: []byte{200}})
	if n := log.lines.Load(); n != complaintLines+1 {
		t.Errorf("%d lines, with one about another node", n)
	}
	s.now = s.now.Add(complaintEvery)
	said(g.key, 200)
	if n := log.lines.Load(); n != complaintLines+2 || !strings.Contains(log.last.Load().(string), "left_out") {
		t.Errorf("%d lines, the last one %v", n, log.last.Load())
	}
}

// countingHandler counts the warnings of a log.
type countingHandler struct {
	lines atomic.Int64
	last  atomic.Value // string
}

func (h *countingHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn
}

func (h *countingHandler) Handle(_ context.Context, r slog.Record) error {
	h.lines.Add(1)
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	h.last.Store(text)
	return nil
}

func (h *countingHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *countingHandler) WithGroup(string) slog.Handler      { return h }

// TestManySenders: what is remembered of who speaks from where is bounded, however
// many replicas somebody claims to be.
func TestManySenders(t *testing.T) {
	t.Parallel()
	s := hostileStage(t, 3)
	g := s.replicaOf(s.nodes[0])
	for r := range uint64(2000) {
		m := &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), From: u64(100 + r), To: u64(uint64(g.self)), Term: u64(g.term())}
		body, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		s.nodes[0].host.HandleMessage(nodeN(9), Message{Group: g.key, From: id.Replica(100 + r), To: g.self, Payload: append([]byte{wireRaft}, body...)})
	}
	s.settle()
	if len(g.seen) > maxSeen {
		t.Errorf("%d senders are remembered", len(g.seen))
	}
}
