package raftgroup

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
)

// relayBytes writes what a relay gets.
func relayBytes(t testing.TB, hold, count, lastTerm uint64, m *raftpb.Message) []byte {
	t.Helper()
	b := []byte{wireRelay}
	for _, v := range []uint64{hold, count, lastTerm} {
		b = binary.AppendUvarint(b, v)
	}
	b, err := proto.MarshalOptions{}.MarshalAppend(b, m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecodeRelayed(t *testing.T) {
	t.Parallel()
	good := func() *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: u64(2), To: u64(3), Term: u64(5), Index: u64(7), LogTerm: u64(4), Commit: u64(6)}
	}
	frame := Message{From: 2, To: 1}
	x, err := decodeRelayed(frame, relayBytes(t, 200, 9, 5, good()), 1)
	if err != nil || x.hold != 200 || x.count != 9 || x.lastTerm != 5 || !proto.Equal(x.append, good()) {
		t.Fatalf("decoded %+v, %v", x, err)
	}
	for _, c := range []struct {
		name   string
		change func(m *raftpb.Message, f *Message)
		hold   uint64
		count  uint64
	}{
		{"for the relay itself", func(m *raftpb.Message, _ *Message) { m.To = u64(1) }, 0, 1},
		{"for nobody", func(m *raftpb.Message, _ *Message) { m.To = nil }, 0, 1},
		{"for its sender", func(m *raftpb.Message, _ *Message) { m.To = u64(2) }, 0, 1},
		{"frame for another replica", func(_ *raftpb.Message, f *Message) { f.To = 4 }, 0, 1},
		{"sender and frame differ", func(m *raftpb.Message, _ *Message) { m.From = u64(4) }, 0, 1},
		{"from the relay itself", func(m *raftpb.Message, f *Message) { m.From, f.From = u64(1), 1 }, 0, 1},
		{"not an append", func(m *raftpb.Message, _ *Message) { m.Type = raftpb.MsgHeartbeat.Enum() }, 0, 1},
		{"with entries", func(m *raftpb.Message, _ *Message) { m.Entries = []*raftpb.Entry{normal(8, 5, nil)} }, 0, 1},
		{"index that overflows", func(m *raftpb.Message, _ *Message) { m.Index = u64(maxNumber) }, 0, 1},
		{"count that overflows", func(*raftpb.Message, *Message) {}, 0, maxNumber},
		{"held for too long", func(*raftpb.Message, *Message) {}, 1 << 20, 1},
	} {
		m, f := good(), frame
		c.change(m, &f)
		if _, err := decodeRelayed(f, relayBytes(t, c.hold, c.count, 5, m), 1); !errors.Is(err, errBadMessage) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	whole := relayBytes(t, 200, 9, 5, good())
	for n := 1; n < 4; n++ {
		if _, err := decodeRelayed(frame, whole[:n], 1); !errors.Is(err, errBadMessage) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

// FuzzRelayed takes bytes off the network.
func FuzzRelayed(f *testing.F) {
	f.Add(relayBytes(f, 0, 1, 1, &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: u64(2), To: u64(3), Term: u64(1)}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		x, err := decodeRelayed(Message{From: 2, To: 1}, data, 1)
		if err == nil && (x.append.GetTo() == 1 || x.append.GetIndex()+x.count > maxNumber) {
			t.Errorf("accepted %+v", x)
		}
	})
}

// TestOnlyAppendsAreRelayed: no replica speaks for another in anything else.
func TestOnlyAppendsAreRelayed(t *testing.T) {
	t.Parallel()
	g := &Group{self: 1}
	vote := &raftpb.Message{Type: raftpb.MsgVote.Enum(), From: u64(2), To: u64(1), Term: u64(5)}
	payload, _, err := encodeMessage(vote)
	if err != nil {
		t.Fatal(err)
	}
	payload[0] = wireRelayed
	if err := g.receive(id.Node{9}, Message{From: 2, To: 1, Payload: payload}); !errors.Is(err, errBadMessage) {
		t.Errorf("a vote that another replica passes on: %v", err)
	}
}

// TestRelayHoldsOneLearnerOnly: what a relay holds back for one learner does not
// hold up what it passes on to another, and each gets its own in order.
func TestRelayHoldsOneLearnerOnly(t *testing.T) {
	t.Parallel()
	s := hostileStage(t, 4)
	relay := s.nodes[1]
	g := s.replicaOf(relay)
	passed := func() (to []int) {
		for relay.host.Step() {
		}
		for _, p := range s.flight {
			if b := p.message.Bytes(); p.from == relay.n && b[0] == wireRelayed {
				to = append(to, p.to)
			}
		}
		s.flight = nil
		return to
	}
	give := func(to uint64, hold time.Duration) {
		m := &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: u64(1), To: u64(to), Term: u64(g.term()), Index: u64(g.last), LogTerm: u64(g.term())}
		relay.host.HandleMessage(nodeN(1), Message{Group: g.key, From: 1, To: 2, Payload: relayBytes(t, uint64(hold/time.Millisecond), 0, g.term(), m)})
	}
	give(3, time.Second)
	give(4, 0)
	give(4, 2*time.Second)
	if got := passed(); !slices.Equal(got, []int{4}) {
		t.Fatalf("passed on to %v, not to 4", got)
	}
	s.now = s.now.Add(1100 * time.Millisecond)
	relay.host.Tick()
	if got := passed(); !slices.Equal(got, []int{3}) {
		t.Fatalf("passed on to %v, not to 3", got)
	}
	give(4, 0) // lets go of the one before
	if got := passed(); !slices.Equal(got, []int{4, 4}) || g.relaying != nil {
		t.Fatalf("passed on to %v, not twice to 4; %d wait", got, len(g.relaying))
	}
}

// TestNearestHoldersFirst: of the holders far away, those with short round
// trips are asked first, and those that nobody has measured last.
func TestNearestHoldersFirst(t *testing.T) {
	t.Parallel()
	a, b, c, d := id.Node{1}, id.Node{2}, id.Node{3}, id.Node{4}
	away := map[id.Node]time.Duration{a: 90 * time.Millisecond, c: 30 * time.Millisecond}
	h := &Host{}
	if got := h.nearestFirst([]id.Node{a, b, c}); !slices.Equal(got, []id.Node{a, b, c}) {
		t.Errorf("without round trips: %v", got)
	}
	h.cfg.RTT = func(n id.Node) (time.Duration, bool) {
		rtt, ok := away[n]
		return rtt, ok
	}
	if got := h.nearestFirst([]id.Node{d, a, b, c}); !slices.Equal(got, []id.Node{c, a, d, b}) {
		t.Errorf("order %v", got)
	}
}
