package raftgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/snapshot"
	"github.com/copycat-replication/copycat/wal"
)

// stage is where the stories are played: real hosts, logs, snapshots and
// subscriptions of one group, on one thread. Nothing happens by itself: time
// passes when the story says so, what is sent can be held, lost or sent twice,
// a disk can stop, and nobody asks to lead unless told to.
type stage struct {
	t       testing.TB
	now     time.Time
	genesis Genesis
	tune    func(*Config)
	segment int64 // of the logs
	nodes   []*stageNode
	players []*player

	flight []*parcel // on its way, in the order in which it was sent
	holds  []link
	cuts   []link

	tasks  []*stageTask
	onTurn *stageTask
	back   chan struct{} // the task whose turn it is parks or ends
	timers []stageTimer
	over   bool

	names map[uint64]string // whose session is which
	told  uint64            // the log was told up to here
}

// stageNode is a node; its disk outlives its processes.
type stageNode struct {
	s     *stage
	n     int
	id    id.Node
	fs    *vfs.Mem
	cold  *wal.MemCold
	up    bool
	life  uint64
	still bool // its log is not flushed
	stops bool // its process stands still
	frame bool // nor will it be, once the frame of a snapshot waits
	log   *wal.Log
	snaps *snapshot.Store
	host  *Host
}

// player is a subscriber whose data structure is a list of words.
type player struct {
	s     *stage
	name  string
	node  *stageNode
	m     *Manual
	words []string
	asked bool // its provider was called
	fails bool // its provider fails
}

// parcel is a message between two nodes.
type parcel struct {
	from, to int
	message  Message
	raft     *raftpb.Message // nil: not raft's
	pinned   bool            // held by itself
}

// link selects messages: of a kind, from one node to another; 0 is any.
type link struct {
	from, to int
	kind     string
}

// stageTask is something that waits: a goroutine that runs only while the
// stage stands still.
type stageTask struct {
	n     *stageNode
	life  uint64
	turn  chan struct{}
	ready func() bool
}

type stageTimer struct {
	at   time.Time
	fire context.CancelFunc
}

func newStage(t testing.TB, nodes int) *stage {
	s := &stage{t: t, now: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), back: make(chan struct{}), names: make(map[uint64]string)}
	for i := range nodes {
		s.nodes = append(s.nodes, &stageNode{s: s, n: i + 1, id: nodeN(i + 1), fs: vfs.NewMem(), cold: wal.NewMemCold()})
	}
	return s
}

func (n *stageNode) key(what uint64) (key [32]byte) {
	key[0], key[1], key[2] = byte(n.n), byte(n.life), byte(what)
	return key
}

func (n *stageNode) start() error {
	n.life++
	n.still = false
	logger := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(stageWriter{n.s}, nil)).With("node", n.n)
	}
	var err error
	n.log, err = wal.Open(wal.Options{FS: n.fs, Dir: "wal", SegmentSize: n.s.segment, HotBytes: 4 * n.s.segment, Cold: n.cold, Entropy: rand.NewChaCha8(n.key(1)), Logger: logger})
	if err != nil {
		return err
	}
	if n.snaps, err = snapshot.OpenStore(snapshot.Options{FS: n.fs, Dir: "snapshots", Logger: logger}); err != nil {
		return err
	}
	cfg := Config{
		Node: n.id, Incarnation: n.life, Log: n.log, Snapshots: n.snaps, Network: n, Directory: n, Clock: n.s,
		Tasks: n, Random: rand.NewChaCha8(n.key(2)), Logger: logger,
		ElectionTicks: 1 << 20, // nobody is elected unless the story has it so
	}
	if n.s.tune != nil {
		n.s.tune(&cfg)
	}
	if n.host, err = NewHost(cfg); err != nil {
		return err
	}
	n.up = true
	n.host.Resume()
	for _, o := range n.s.nodes {
		if o != n && o.up {
			o.host.PeerUp(n.id, n.life)
		}
	}
	return nil
}

type stageWriter struct{ s *stage }

func (w stageWriter) Write(p []byte) (int, error) {
	w.s.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// crash takes the power away: fate says what was not synced and is there all the same.
func (n *stageNode) crash(fate func(vfs.Unsynced) vfs.Fate) {
	n.fs, n.cold = n.fs.CrashClone(fate), n.cold.Crash()
	n.up = false
	n.s.players = slices.DeleteFunc(n.s.players, func(p *player) bool { return p.node == n })
	n.s.flight = slices.DeleteFunc(n.s.flight, func(p *parcel) bool { return p.to == n.n })
	for _, o := range n.s.nodes {
		if o.up {
			o.host.PeerDown(n.id)
		}
	}
}

// found has the group born on its first members.
func (s *stage) found(g Genesis) error {
	s.genesis = g
	errs := make([]error, len(s.nodes))
	started := 0
	for i, n := range s.nodes {
		if _, ok := replicaFor(g.Members, n.id); ok {
			n.Go(func() { errs[i] = n.host.Prepare(context.Background(), g) })
		}
	}
	s.settle()
	s.genesis.Group.Incarnation = id.Incarnation{Birth: 2}
	for i, n := range slices.Backward(s.nodes) { // the first replica is the last one: then it can ask all to lead
		if _, ok := replicaFor(g.Members, n.id); ok {
			n.Go(func() {
				errs[i] = errors.Join(errs[i], n.host.StartPrepared(context.Background(), g.Token, s.genesis.Group.Incarnation))
				started++
			})
			s.settle()
		}
	}
	if started != len(g.Members) {
		errs = append(errs, fmt.Errorf("%d of %d replicas started", started, len(g.Members)))
	}
	return errors.Join(errs...)
}

// settle goes on until nothing moves any more. No time passes.
func (s *stage) settle() {
	for range 100_000 {
		if !s.move() {
			return
		}
	}
	s.t.Fatal("the stage does not come to rest")
}

// move does whatever can be done now, and reports whether there was something.
func (s *stage) move() (moved bool) {
	for _, n := range s.nodes {
		if n.stops {
			continue
		}
		for n.up && n.host.Step() {
			moved = true
		}
		if n.up && n.frame && n.adopts() {
			n.still, n.frame = true, false
		}
		if n.up && !n.still && n.log.Stats().QueuedUpdates > 0 {
			_, _ = n.log.Flush() // who waits for it hears of an error
			moved = true
		}
		if n.up && n.host.HasJob() {
			n.Go(func() { n.host.RunJob() })
		}
	}
	moved = s.runTasks() || moved
	for _, p := range s.players {
		if !p.m.begun {
			p.m.begin()
		}
		if session := p.m.Session(); session != 0 {
			s.names[session] = p.name
		}
	}
	return s.deliver() || moved
}

// adopts reports whether the frame that names a new snapshot is under way.
func (n *stageNode) adopts() bool {
	g, ok := n.host.Group(n.s.genesis.Group.Structure)
	return ok && g.errands != nil && g.snaps.adopting.Index > g.snaps.held.Index
}

// deliver hands over the first message that nothing holds.
func (s *stage) deliver() bool {
	i := slices.IndexFunc(s.flight, func(p *parcel) bool { return !s.isHeld(p) })
	if i < 0 {
		return false
	}
	p := s.flight[i]
	s.flight = slices.Delete(s.flight, i, i+1)
	s.hand(p)
	return true
}

func (s *stage) hand(p *parcel) {
	if to := s.nodes[p.to-1]; to.up && !p.among(s.cuts) {
		to.host.HandleMessage(s.nodes[p.from-1].id, p.message)
	}
}

// pass lets time pass, tick by tick.
func (s *stage) pass(d time.Duration) {
	const tick = 100 * time.Millisecond
	for until := s.now.Add(d); s.now.Before(until); {
		s.now = s.now.Add(tick)
		for _, t := range s.timers {
			if !t.at.After(s.now) {
				t.fire()
			}
		}
		s.timers = slices.DeleteFunc(s.timers, func(t stageTimer) bool { return !t.at.After(s.now) })
		for _, n := range s.nodes {
			if n.up && !n.stops {
				n.host.Tick()
			}
		}
		s.settle()
	}
}

// inStep runs f in the step of a node's replica.
func (s *stage) inStep(n *stageNode, f func(*Group)) error {
	if !n.up {
		return fmt.Errorf("node %d: %w", n.n, ErrClosed)
	}
	g, ok := n.host.Group(s.genesis.Group.Structure)
	if !ok {
		return fmt.Errorf("node %d: %w", n.n, ErrUnknownGroup)
	}
	ran := false
	g.call(func() { f(g); ran = true })
	for n.host.Step() {
	}
	if !ran {
		return fmt.Errorf("node %d: its replica takes nothing", n.n)
	}
	return nil
}

// leader is the node that leads, or nil. A leader that was deposed and does not
// know it does not count.
func (s *stage) leader() *stageNode {
	var found *stageNode
	term := uint64(0)
	for _, n := range s.nodes {
		if !n.up {
			continue
		}
		if g, ok := n.host.Group(s.genesis.Group.Structure); ok && g.isLeader() {
			if t := g.rn.BasicStatus().GetTerm(); t > term {
				found, term = n, t
			}
		}
	}
	return found
}

// finish ends what still waits.
func (s *stage) finish() {
	s.over = true
	for len(s.tasks) > 0 {
		s.turnOf(0)
	}
	for _, t := range s.timers {
		t.fire()
	}
}

// Clock, Network, Directory and Tasks of the hosts.

func (s *stage) Now() time.Time { return s.now }

func (n *stageNode) Flush() {}

func (n *stageNode) Send(to id.Node, m Message) error {
	for _, o := range n.s.nodes {
		if o.id != to {
			continue
		}
		p := &parcel{from: n.n, to: o.n, message: m}
		if payload := m.Bytes(); len(payload) > 0 && payload[0] == wireRaft {
			p.raft = new(raftpb.Message)
			if err := proto.Unmarshal(payload[1:], p.raft); err != nil {
				return err
			}
		}
		n.s.flight = append(n.s.flight, p)
	}
	return nil
}

var errOffStage = errors.New("unreachable")

// reach tells whether calls get from one node to another.
func (n *stageNode) reach(to id.Node) (*stageNode, error) {
	for _, o := range n.s.nodes {
		p := &parcel{from: n.n, to: o.n}
		if o.id == to && o.up && n.up && !o.stops && !p.among(n.s.cuts) {
			return o, nil
		}
	}
	return nil, errOffStage
}

func (n *stageNode) Call(ctx context.Context, to id.Node, method uint16, request []byte) ([]byte, error) {
	o, err := n.reach(to)
	if err != nil {
		return nil, err
	}
	return o.host.HandleCall(ctx, n.id, method, request)
}

func (n *stageNode) Fetch(ctx context.Context, to id.Node, request []byte) (io.ReadCloser, error) {
	o, err := n.reach(to)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = o.host.HandleStream(ctx, n.id, request, &b)
	return io.NopCloser(&b), err
}

func (n *stageNode) Nodes() []Node {
	var out []Node
	for _, o := range n.s.nodes {
		if o.up && !o.stops {
			out = append(out, Node{ID: o.id, Incarnation: o.life, DataCenter: fmt.Sprintf("dc%d", o.n), Capacity: 1})
		}
	}
	return out
}

func (n *stageNode) Holders(id.Structure) []id.Node {
	var out []id.Node
	for _, o := range n.Nodes() {
		out = append(out, o.ID)
	}
	return out
}

func (*stageNode) Publish([]Hosted) {}
