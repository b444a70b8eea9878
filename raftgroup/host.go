package raftgroup

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/snapshot"
)

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

	complaints complaints // of nodes whose messages are refused

	jobs jobs
	idle chan struct{} // closed: no worker runs any more

	filed   []uint64 // local numbers that had snapshot files when this host was made, ascending
	orphans []uint64 // those whose files Start removes

	ctx    context.Context // of calls and fetches: ends when the host closes
	cancel context.CancelFunc
	pool   sync.WaitGroup
	joins  sync.WaitGroup
	tasks  Tasks

	joinSlots chan struct{} // one for each attempt to get a replica

	leaving           atomic.Bool   // this node must not hold replicas any more
	news              atomic.Uint64 // see News
	moves             tokens        // replicas that leaders here have others get
	inbound, outbound pacer         // of snapshots
	making            making        // of snapshots

	randMu sync.Mutex // guards cfg.Random

	mu        sync.Mutex
	closed    bool
	started   bool
	groups    map[id.Group]*Group              // started replicas
	current   map[id.Structure]*Group          // the newest started incarnation
	prepared  map[Token]PreparedReplica        // replicas of births that are not decided
	preparing map[Token]struct{}               // replicas that are being made for births
	ordered   []*Group                         // all of the above, oldest first, and see dropped; what stands in it is never changed in place
	dropped   bool                             // some of ordered are not here any more: see replicasLocked
	members   id.MemberSets                    // of all groups; has a lock of its own
	twins     bool                             // there were two started replicas of one group: see twinLocked
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
	ticking []*Group     // those that are awake, in no order
	scratch []*Group     // of Tick
	awakes  atomic.Int32 // the number of ticking

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
	if h.filed, h.orphans, err = findOrphans(cfg.Log, cfg.Snapshots); err != nil {
		cfg.Logger.Warn("snapshots without a replica are left", "error", err) // they only take room
	}
	return h, nil
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

// Tick lets a tick pass for every group that is awake, looks after those that
// are quiet, and publishes what changed. One call at a time.
func (h *Host) Tick() {
	h.mu.Lock()
	h.untold++
	publish := h.changed && h.untold > len(h.replicasLocked())/publishShare
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
	groups := h.replicasLocked()
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

// Group returns this node's started replica of a structure.
func (h *Host) Group(s id.Structure) (*Group, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g, ok := h.current[s]
	return g, ok
}

// random fills b.
func (h *Host) random(b []byte) error {
	h.randMu.Lock()
	defer h.randMu.Unlock()
	_, err := io.ReadFull(h.cfg.Random, b)
	return err
}
