package raftgroup

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/snapshot"
)

// Config wires a host to the world. Zero numbers mean the defaults.
type Config struct {
	Node        id.Node
	Incarnation uint64 // of this process: greater than that of any earlier one on the same directory
	Log         LogStore
	Snapshots   *snapshot.Store
	Network     Network
	Directory   Directory
	Clock       Clock // its differences are what counts: it must not jump
	// Wall gives the time of day that a leader stamps on entries. It may jump:
	// nothing waits by it alone. Default Clock.Now.
	Wall   func() time.Time
	Random io.Reader // default crypto/rand
	Logger *slog.Logger
	// Events, if not nil, hears of what happens to groups. It is called from
	// their steps, several at a time, and must not block.
	Events func(Event)
	// Tasks runs joins, and what else waits. Nil: goroutines.
	Tasks Tasks

	// Workers is the size of the pool that steps groups. Default 4: steps do
	// not block, except to read cold log for a follower that lags.
	Workers int
	// ElectionTicks and HeartbeatTicks are raft's, in calls of Tick. Default
	// 10 and 1: with a tick of 100 ms a dead leader is noticed after 1 to 2 s.
	ElectionTicks  int
	HeartbeatTicks int
	// RTT gives the round-trip time to a node, where it has been measured.
	// Election time-outs follow it: they last five of those to the farthest voter,
	// up to five times ElectionTicks. Nil: they do not. It is called from the
	// groups' steps, several at a time, and must not block.
	RTT func(id.Node) (time.Duration, bool)
	// TickInterval is how often Start calls Tick. Default 100 ms.
	TickInterval time.Duration
	// CompactionTail is how many log entries before a snapshot stay, for
	// followers and cursors that lag a little, and CompactionBytes how far
	// behind the newest they may lie. Defaults 1,024 and 128 MiB.
	CompactionTail  uint64
	CompactionBytes uint64
	// SessionTimeout is how long a node must be gone before the sessions of
	// its subscriptions are expired. Default 60 s: longer than a restart.
	SessionTimeout time.Duration
	// SnapshotTimeout is how long a maker has before the next one is asked;
	// it doubles with each attempt. Default 30 s.
	SnapshotTimeout time.Duration
	// CallTimeout bounds one call to another node. Default 5 s.
	CallTimeout time.Duration
	// QuietAfter is how long a group must have had nothing to do before it
	// falls quiet. Default 3 s; negative: never.
	QuietAfter time.Duration
	// ReplaceAfter is how long neither raft nor gossip may have heard of a
	// replica, by its leader's clock, before it is replaced. Default one minute:
	// longer than a restart. A move for a better spread waits as long.
	ReplaceAfter time.Duration
	// SnapshotBandwidth bounds the bytes of snapshots that this node sends in a
	// second, those that it receives, and, while its log is being written, those
	// that it makes, so that commits have room beside them. Default 64 MiB: half of a link of 1 Gbit/s. Negative: no bound.
	SnapshotBandwidth int64
}

func (c Config) withDefaults() Config {
	if c.Random == nil {
		c.Random = rand.Reader
	}
	if c.Wall == nil && c.Clock != nil {
		c.Wall = c.Clock.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.Workers, 4)
	setDefault(&c.ElectionTicks, 10)
	setDefault(&c.HeartbeatTicks, 1)
	setDefault(&c.TickInterval, 100*time.Millisecond)
	setDefault(&c.CompactionTail, 1024)
	setDefault(&c.CompactionBytes, 128<<20)
	setDefault(&c.SessionTimeout, time.Minute)
	setDefault(&c.SnapshotTimeout, 30*time.Second)
	setDefault(&c.CallTimeout, 5*time.Second)
	setDefault(&c.QuietAfter, 3*time.Second)
	setDefault(&c.ReplaceAfter, time.Minute)
	setDefault(&c.SnapshotBandwidth, 64<<20)
	return c
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Host is the multi-group engine of a node: all groups share its log store,
// its network and a fixed pool of workers. A group with work queues up once
// and is stepped by one worker at a time.
type Host struct {
	cfg   Config
	log   LogStore
	snaps *snapshot.Store
	net   Network
	dir   Directory

	ready readyQueue
	watch nodeWatch // of the nodes that quiet groups rely on

	refusals refusals // of nodes whose connections broke

	jobs jobs
	idle chan struct{} // closed: no worker runs any more

	orphans []uint64 // local numbers whose snapshot files Start removes

	ctx    context.Context // of calls and fetches: ends when the host closes
	cancel context.CancelFunc
	pool   sync.WaitGroup
	joins  sync.WaitGroup
	tasks  Tasks

	joinSlots chan struct{} // one for each attempt to get a replica

	leaving           atomic.Bool // this node must not hold replicas any more
	moves             tokens      // replicas that leaders here have others get
	inbound, outbound pacer       // of snapshots
	making            making      // of snapshots

	randMu sync.Mutex // guards cfg.Random

	mu        sync.Mutex
	closed    bool
	started   bool
	groups    map[id.Group]*Group              // started replicas
	current   map[id.Structure]*Group          // the newest started incarnation
	prepared  map[Token]PreparedReplica        // replicas of births that are not decided
	preparing map[Token]struct{}               // replicas that are being made for births
	ordered   []*Group                         // all of the above, oldest first; what stands in it is never changed in place
	born      map[Token]*Group                 // the same by their births: of several, the newest
	subs      map[*Subscription]uint64         // how many came before it: a replay must not depend on map order
	came      uint64                           // subscriptions so far
	waiting   map[id.Structure][]*Subscription // subscriptions without a replica
	joining   map[id.Structure]*joinWish
	kept      []id.Group // of replicas that were superseded: not used any more
	between   between
	unwanted  map[id.Structure]struct{} // of joining: structures that were deleted meanwhile
	changed   bool                      // hosted replicas are to be published
	untold    int                       // ticks since they were

	tickMu  sync.Mutex
	ticking []*Group // those that are awake, in no order
	scratch []*Group // of Tick

	askedStopped time.Time // Tick's: when it was last asked for replicas that have stopped
	logFailed    bool      // Tick's: the log's failure was told to all replicas
}

// NewHost opens the replicas that the log store holds. Nothing runs before
// Start, or before a simulation calls Tick and Step.
func NewHost(cfg Config) (*Host, error) {
	cfg = cfg.withDefaults()
	h := &Host{
		cfg: cfg, log: cfg.Log, snaps: cfg.Snapshots, net: cfg.Network, dir: cfg.Directory,
		idle:      make(chan struct{}),
		groups:    make(map[id.Group]*Group),
		current:   make(map[id.Structure]*Group),
		prepared:  make(map[Token]PreparedReplica),
		preparing: make(map[Token]struct{}),
		subs:      make(map[*Subscription]uint64),
		waiting:   make(map[id.Structure][]*Subscription),
		joining:   make(map[id.Structure]*joinWish),
		unwanted:  make(map[id.Structure]struct{}),
		born:      make(map[Token]*Group),
		between:   make(between),

		joinSlots: make(chan struct{}, maxJoins),
	}
	h.ready.wake = sync.NewCond(&h.ready.mu)
	h.watch = newNodeWatch()
	h.jobs = newJobs()
	h.inbound.rate, h.outbound.rate, h.making.rate = cfg.SnapshotBandwidth, cfg.SnapshotBandwidth, cfg.SnapshotBandwidth
	if h.tasks = cfg.Tasks; h.tasks == nil {
		h.tasks = goTasks{&h.joins}
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	for _, st := range cfg.Log.Groups() {
		if err := h.open(st); err != nil {
			return nil, err
		}
	}
	var err error
	if h.orphans, err = findOrphans(cfg.Log, cfg.Snapshots); err != nil {
		cfg.Logger.Warn("snapshots without a replica are left", "error", err) // they only take room
	}
	return h, nil
}

// findOrphans lists the local numbers that have snapshot files and that the log
// store does not know: of replicas that were being seeded, or removed, when the
// process ended. No number is given out twice, so nobody will use them again.
// The files of replicas that were set aside stay, like their logs.
func findOrphans(log LogStore, snaps *snapshot.Store) ([]uint64, error) {
	found, err := snaps.Groups()
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	known := make(map[uint64]bool)
	for _, st := range log.Groups() {
		known[st.Group] = true
	}
	for _, s := range log.Suspects() {
		known[s.Group] = true
	}
	return slices.DeleteFunc(found, func(local uint64) bool { return known[local] }), nil
}

// sweep removes the snapshot files that were found without a replica.
func (h *Host) sweep() {
	for _, local := range h.orphans {
		h.jobs.files.add(func() {
			if err := h.snaps.RemoveGroup(local); err != nil {
				h.cfg.Logger.Warn("snapshots of a replica that is not here are left", "local", local, "error", err)
				return
			}
			h.cfg.Logger.Info("removed the snapshots of a replica that is not here", "local", local)
		})
	}
}

// Start runs the pool and the ticker until Close.
func (h *Host) Start() {
	h.mu.Lock()
	h.started = true
	h.mu.Unlock()
	for range h.cfg.Workers {
		h.pool.Go(h.work)
	}
	h.pool.Go(func() {
		t := time.NewTicker(h.cfg.TickInterval)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				h.Tick()
			case <-h.ctx.Done():
				return
			}
		}
	})
	h.jobs.start()
	h.Resume()
}

// stepsPerFlush is how many groups a worker steps before their messages go out:
// they share writes, and the first of them waits some hundred microseconds.
const stepsPerFlush = 8

// work steps groups until the host closes.
func (h *Host) work() {
	for steps := 1; ; steps++ {
		g := h.ready.take(false)
		if g == nil {
			h.net.Flush()
			if g = h.ready.take(true); g == nil {
				return
			}
		}
		g.run(h.cfg.Clock.Now())
		if steps%stepsPerFlush == 0 {
			h.net.Flush()
		}
	}
}

// Resume goes on with what the end of the last process cut short. Start calls
// it; a simulation does.
func (h *Host) Resume() {
	h.sweep()
	for _, g := range h.Groups() {
		if (g.Role != "prepared" && !g.Voter && len(g.Voters) > 0) || g.Role == "waiting for snapshot" {
			// Made, and perhaps not made a member before the process ended.
			if err := h.beginJoin(g.Group.Structure, id.Node{}, joinWish{}); err != nil {
				h.cfg.Logger.Warn("replica does not join its group", "group", g.Group.String(), "error", err)
			}
		}
	}
	h.refill()
}

// publishShare is how many replicas are published in a tick, on average: the
// list is always told whole, and while thousands are made it changes all the time.
// With ten thousand it is told once a second then, and at once in quieter times.
const publishShare = 1000

// Tick lets a tick pass for every group that is awake, looks after those that
// are quiet, and publishes what changed. One call at a time.
func (h *Host) Tick() {
	h.mu.Lock()
	h.untold++
	publish := h.changed && h.untold > len(h.ordered)/publishShare
	if publish {
		h.changed, h.untold = false, 0
	}
	h.mu.Unlock()
	h.tickWatch()
	h.tickFailedLog()
	h.tickStopped()
	for _, node := range h.refusals.next(h.cfg.Clock.Now()) {
		h.probe(node)
	}
	h.tickMu.Lock()
	h.scratch = append(h.scratch[:0], h.ticking...)
	h.tickMu.Unlock()
	for _, g := range h.scratch {
		g.tick()
	}
	clear(h.scratch)
	if publish {
		h.dir.Publish(h.hosted())
	}
}

// Step works off one group that has something to do, and reports whether there
// was one. It is for a simulation, which has no pool, and whose network holds
// nothing back.
func (h *Host) Step() bool {
	g := h.ready.take(false)
	if g == nil {
		return false
	}
	g.run(h.cfg.Clock.Now())
	return true
}

func (h *Host) enqueue(g *Group) { h.ready.put(g) }

// Close ends all subscriptions and goroutines. Proposals that are not settled
// are reported on their error channels first. It does not close the log store,
// the snapshot store or the network, and must be called before those are closed.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	subs := h.inOrderLocked()
	started := h.started
	h.mu.Unlock()

	h.cancel()
	for _, s := range subs {
		s.shut()
	}
	if !started {
		close(h.idle)
	}
	for _, s := range subs {
		<-s.ended
	}
	h.joins.Wait()
	h.jobs.stop()
	h.mu.Lock()
	groups := h.ordered
	h.mu.Unlock()
	for _, g := range groups {
		g.mailbox.mu.Lock()
		g.mailbox.closed = true
		g.mailbox.mu.Unlock()
	}
	h.ready.close()
	h.pool.Wait()
	if started {
		close(h.idle)
	}
	return nil
}

// inOrderLocked lists the subscriptions, oldest first.
func (h *Host) inOrderLocked() []*Subscription {
	return slices.SortedFunc(maps.Keys(h.subs), func(a, b *Subscription) int { return cmp.Compare(h.subs[a], h.subs[b]) })
}

// Subscribe adds a subscription. It returns at once: the subscription attaches
// to the node's replica when there is one. Having the group born is the caller's
// business (Prepare), and so is asking it for a replica, unless the
// configuration says Join.
func (h *Host) Subscribe(cfg SubscriptionConfig) (*Subscription, error) {
	return h.subscribe(cfg, func(s *Subscription) { go s.run() }) // Close waits for ended
}

// subscribe adds a subscription and begins to serve it.
func (h *Host) subscribe(cfg SubscriptionConfig, serve func(*Subscription)) (*Subscription, error) {
	if cfg.Provider == nil {
		return nil, fmt.Errorf("structure %s: %w", cfg.Structure, ErrNoProvider)
	}
	s := newSubscription(h, cfg.withDefaults())
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.joinableLocked(cfg.Structure); err != nil && (h.closed || !cfg.Passive) {
		return nil, err
	}
	h.subs[s] = h.came
	h.came++
	if g := h.current[cfg.Structure]; g == nil || !g.call(func() { g.attach(s) }) {
		h.waiting[cfg.Structure] = append(h.waiting[cfg.Structure], s)
		if cfg.Join {
			h.beginJoinLocked(cfg.Structure, id.Node{}, joinWish{wanted: true})
		}
	}
	serve(s)
	return s, nil
}

// ended notes that a subscription is over; Close waits for it until then.
func (h *Host) ended(s *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, s)
}

// unqueue takes a subscription that ends out of the line for a replica.
func (h *Host) unqueue(s *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	waiting := h.waiting[s.cfg.Structure]
	for i, w := range waiting {
		if w == s {
			h.waiting[s.cfg.Structure] = append(waiting[:i:i], waiting[i+1:]...)
			break
		}
	}
	if len(h.waiting[s.cfg.Structure]) == 0 {
		delete(h.waiting, s.cfg.Structure)
	}
}

// Group returns this node's started replica of a structure.
func (h *Host) Group(s id.Structure) (*Group, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g, ok := h.current[s]
	return g, ok
}

// HandleMessages takes messages from the network. It never blocks.
func (h *Host) HandleMessages(from id.Node, batch []Message) {
	for _, m := range batch {
		h.HandleMessage(from, m)
	}
}

// HandleMessage takes one message from the network. It never blocks.
func (h *Host) HandleMessage(from id.Node, m Message) {
	if m.Group == (id.Group{}) {
		if err := h.handleNode(from, m.Payload); err != nil {
			h.cfg.Logger.Warn("message refused", "from", from.String(), "error", err)
		}
		return
	}
	g := h.replica(m.Group)
	if g == nil {
		return // a replica that is not here, or not any more: raft's senders live with loss
	}
	if err := g.receive(from, m); err != nil && !errors.Is(err, ErrBusy) {
		g.log.Warn("message refused", "from", from.String(), "error", err)
	}
}

// PeerUp hears that a node is connected, perhaps as a new process: what it was
// doing for us before is void.
func (h *Host) PeerUp(node id.Node, incarnation uint64) {
	h.watch.heard(node, incarnation)
	h.refusals.heard(node)
	h.mu.Lock()
	groups := h.ordered
	h.mu.Unlock()
	for _, g := range groups {
		if !g.status.Load().Quiet {
			g.call(func() { g.leader.onPeerUp(g, node, incarnation) })
		}
	}
}

// hostedChanged has the directory told with the next tick.
func (h *Host) hostedChanged() {
	h.mu.Lock()
	h.changed = true
	h.mu.Unlock()
}

// hosted lists the started replicas, oldest first.
func (h *Host) hosted() []Hosted {
	h.mu.Lock()
	// The key of a group that is being started at this moment is its step's.
	keys := make(map[*Group]id.Group, len(h.groups))
	for key, g := range h.groups {
		keys[g] = key
	}
	groups := h.ordered
	h.mu.Unlock()
	out := make([]Hosted, 0, len(keys))
	for _, g := range groups {
		key, started := keys[g]
		st := g.status.Load()
		if !started || st.Failed || st.Deleted {
			continue
		}
		out = append(out, Hosted{Group: key, Replica: g.self, Voter: st.Voter, Leader: st.IsLeader})
	}
	return out
}

// random fills b.
func (h *Host) random(b []byte) error {
	h.randMu.Lock()
	defer h.randMu.Unlock()
	_, err := io.ReadFull(h.cfg.Random, b)
	return err
}

// PeerDown hears that the connection with a node broke: what was sent on it
// may be lost. Leaders there get their proposals again, followers there are
// probed instead of streamed to.
func (h *Host) PeerDown(node id.Node) {
	h.watch.doubt(node)
	h.mu.Lock()
	groups := h.ordered
	h.mu.Unlock()
	led := make(map[id.Node]bool) // by a leader there, with this node: who else votes
	for _, g := range groups {
		st := g.status.Load()
		if st.LeaderNode == node && st.Voter {
			for _, voter := range st.Voters {
				led[voter] = true
			}
		}
		if !st.Quiet { // nothing of theirs was on its way
			g.call(func() { g.onPeerDown(node) })
		}
	}
	if len(led) > 0 && h.refusals.broke(node) {
		h.probe(node)
		delete(led, node)
		delete(led, h.cfg.Node)
		h.connect(led)
	}
}
