package raftgroup

import (
	"encoding/binary"
	"fmt"
	"io"
	stdlog "log"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// What the tests of the pure cores share: names of nodes, a log in memory, and
// a generator of logs that hold every kind of entry, good and bad.

func nodeN(n int) id.Node {
	var node id.Node
	binary.BigEndian.PutUint64(node[8:], uint64(n))
	return node
}

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)) }

// seeds runs f once for each of n seeds, and names the seed that failed.
func seeds(t *testing.T, n int, f func(t *testing.T, rng *rand.Rand)) {
	t.Helper()
	if testing.Short() {
		n = (n + 3) / 4
	}
	for seed := range uint64(n) {
		ok := func() bool {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			f(t, seeded(seed))
			return !t.Failed()
		}()
		if !ok {
			return
		}
	}
}

// memLog is a committed log in memory. Entry i stands at index first+i.
type memLog struct {
	first   uint64
	term    uint64
	entries []*raftpb.Entry
	reads   int
}

func newMemLog() *memLog { return &memLog{first: 1, term: 1} }

func (l *memLog) last() uint64 { return l.first + uint64(len(l.entries)) - 1 }

func (l *memLog) add(data []byte) *raftpb.Entry {
	e := &raftpb.Entry{Index: new(l.last() + 1), Term: new(l.term), Type: raftpb.EntryNormal.Enum(), Data: data}
	l.entries = append(l.entries, e)
	return e
}

func (l *memLog) at(index uint64) *raftpb.Entry { return l.entries[index-l.first] }

// entries returns a slice of its own, of entries that are shared, like the
// log store does.
func (l *memLog) read(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	l.reads++
	var out []*raftpb.Entry
	size := uint64(0)
	for i := lo; i < hi; i++ {
		e := l.at(i)
		size += uint64(len(e.GetData()))
		if len(out) > 0 && size > maxBytes {
			break
		}
		out = append(out, e)
	}
	return out, nil
}

// reader makes a memLog an entryReader that returns at most so many bytes at a time.
type reader struct {
	log *memLog
	max uint64
}

func (r reader) entries(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	if r.max != 0 {
		maxBytes = min(maxBytes, r.max)
	}
	return r.log.read(lo, hi, maxBytes)
}

func record(t testing.TB, kind Kind, body protoMessage) []byte {
	t.Helper()
	data, err := encodeRecord(kind, body)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func items(payloads ...string) []item {
	out := make([]item, 0, len(payloads))
	for _, p := range payloads {
		out = append(out, item{payload: []byte(p)})
	}
	return out
}

func openRecord(t testing.TB, nonce byte, node id.Node, incarnation uint64) []byte {
	t.Helper()
	return record(t, KindSessionOpen, &grouppb.SessionOpen{Nonce: nonceOf(nonce), Node: node[:], Incarnation: incarnation})
}

func nonceOf(b byte) []byte {
	n := make([]byte, 16)
	n[0] = b
	return n
}

func mustApply(t testing.TB, s *state, e *raftpb.Entry) outcome {
	t.Helper()
	o, err := s.apply(e)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// threeVoters is the genesis of most tests.
func threeVoters() map[id.Replica]id.Node {
	return map[id.Replica]id.Node{1: nodeN(1), 2: nodeN(2), 3: nodeN(3)}
}

func newTestState() *state {
	return newState(id.Group{Incarnation: id.Incarnation{Birth: 7}}, threeVoters(), Options{MaxSessions: 8})
}

// cutState is what a snapshot at the state's index would hold.
func cutState(t testing.TB, s *state) *state {
	t.Helper()
	c, err := s.clone()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func encoded(t testing.TB, s *state) string {
	t.Helper()
	data, err := s.encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// logMaker writes a log in which every kind of entry occurs, mostly sensible,
// sometimes not: it runs a state along to know what makes sense.
type logMaker struct {
	t   testing.TB
	rng *rand.Rand
	log *memLog
	s   *state
	n   int // payloads made
}

// makeLog writes a log of n entries.
func makeLog(t testing.TB, rng *rand.Rand, n int) *memLog {
	m := &logMaker{t: t, rng: rng, log: newMemLog(), s: newTestState()}
	for range n {
		m.step()
	}
	return m.log
}

func (m *logMaker) append(data []byte) {
	if len(data) > 0 {
		stampClock(data, int64(m.rng.IntN(1_000_000)))
	}
	if m.rng.IntN(20) == 0 {
		m.log.term++
	}
	mustApply(m.t, m.s, m.log.add(data))
}

func (m *logMaker) appendConf(typ raftpb.EntryType, data []byte) {
	e := m.log.add(data)
	e.Type = typ.Enum()
	mustApply(m.t, m.s, e)
}

// anySession is mostly a live one.
func (m *logMaker) anySession() uint64 {
	live := m.s.sessions.sorted()
	if len(live) == 0 || m.rng.IntN(10) == 0 {
		return m.rng.Uint64N(m.s.index + 2)
	}
	return live[m.rng.IntN(len(live))].id
}

func (m *logMaker) step() {
	r := m.rng
	switch k := r.IntN(100); {
	case k < 45:
		m.batch()
	case k < 55:
		m.append(openRecord(m.t, byte(r.IntN(200)+1), nodeN(r.IntN(5)+1), uint64(r.IntN(3))))
	case k < 58:
		m.append(record(m.t, KindSessionClose, &grouppb.SessionClose{Session: m.anySession()}))
	case k < 62:
		session := m.anySession()
		last, _, _ := m.s.sessions.last(session)
		m.append(record(m.t, KindSessionExpire, &grouppb.SessionExpire{Session: session, Last: last - min(last, uint64(r.IntN(2)))}))
	case k < 65:
		m.append(record(m.t, KindBase, &grouppb.Base{Session: m.anySession(), Data: []byte(fmt.Sprint("base", r.IntN(9)))}))
	case k < 69:
		m.append(record(m.t, KindSnapshotRequest, &grouppb.SnapshotRequest{Session: m.anySession(), Attempt: uint32(r.IntN(3))}))
	case k < 73:
		m.announce()
	case k < 81:
		node := nodeN(r.IntN(9) + 1)
		m.append(record(m.t, KindReplicaIntent, &grouppb.ReplicaIntent{Nonce: nonceOf(byte(r.IntN(30) + 1)), Node: node[:]}))
	case k < 83:
		m.append(record(m.t, KindIntentAbandon, &grouppb.IntentAbandon{Replica: uint64(r.IntN(int(m.s.next) + 1))}))
	case k < 96:
		m.confChange()
	default:
		m.append(nil)
	}
}

func (m *logMaker) batch() {
	r := m.rng
	session := m.anySession()
	last, _, _ := m.s.sessions.last(session)
	first := last + 1
	switch r.IntN(8) {
	case 0:
		first += uint64(r.IntN(3)) // perhaps a gap
	case 1:
		first -= min(last, uint64(r.IntN(4))) // perhaps a duplicate
	}
	list := make([]item, r.IntN(5)+1)
	for i := range list {
		m.n++
		list[i] = item{payload: fmt.Appendf(nil, "payload %d", m.n), void: r.IntN(6) == 0}
		if r.IntN(10) == 0 {
			list[i].payload = []byte{}
		}
	}
	m.append(encodeBatch(nil, session, first, uint32(r.IntN(4)), list))
}

func (m *logMaker) announce() {
	ref := SnapshotRef{Index: m.rng.Uint64N(m.s.index + 3), Term: 1, Commits: m.rng.Uint64N(m.s.commits + 2), Maker: m.anySession(), Size: 10}
	if q := m.s.request; q != nil && m.rng.IntN(3) > 0 {
		ref.Index, ref.Commits = q.index, q.commits
	}
	node := nodeN(2)
	m.append(record(m.t, KindSnapshotAnnounce, &grouppb.SnapshotAnnounce{Ref: encodeRef(ref), Node: node[:]}))
}

func (m *logMaker) confChange() {
	r := m.rng
	if r.IntN(8) == 0 {
		m.appendConf(raftpb.EntryConfChangeV2, nil) // raft's automatic leave
		return
	}
	typ, cc := randomConfChange(m.t, r, uint64(m.s.next)+1)
	m.appendConf(typ, cc)
}

// randomConfChange is a change of either kind over the replicas 0 .. limit.
func randomConfChange(t testing.TB, r *rand.Rand, limit uint64) (raftpb.EntryType, []byte) {
	t.Helper()
	types := []raftpb.ConfChangeType{
		raftpb.ConfChangeAddNode, raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode,
		raftpb.ConfChangeAddLearnerNode, raftpb.ConfChangeRemoveNode, raftpb.ConfChangeUpdateNode,
	}
	ctx := grouppb.ConfContext{Clock: int64(r.IntN(1000)), Nonce: nonceOf(byte(r.IntN(200)))}
	context, err := ctx.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var m proto.Message
	typ := raftpb.EntryConfChangeV2
	if r.IntN(4) == 0 {
		typ = raftpb.EntryConfChange
		m = &raftpb.ConfChange{Type: types[r.IntN(len(types))].Enum(), NodeId: new(r.Uint64N(limit + 1)), Context: context}
	} else {
		cc := &raftpb.ConfChangeV2{Context: context}
		for range r.IntN(4) {
			cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: types[r.IntN(len(types))].Enum(), NodeId: new(r.Uint64N(limit + 1))})
		}
		if r.IntN(3) == 0 {
			transitions := []raftpb.ConfChangeTransition{raftpb.ConfChangeTransitionAuto, raftpb.ConfChangeTransitionJointImplicit, raftpb.ConfChangeTransitionJointExplicit}
			cc.Transition = transitions[r.IntN(3)].Enum()
		}
		m = cc
	}
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return typ, data
}

func quietLogger() *stdlog.Logger { return stdlog.New(io.Discard, "", 0) }
