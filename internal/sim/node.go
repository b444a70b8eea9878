package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/snapshot"
	"github.com/copycat-replication/copycat/wal"
)

const tick = 100 * time.Millisecond

// segmentSize is small, so that records move between segments and tiers.
const segmentSize = 256 << 10

// node is one node: its disk outlives its processes.
type node struct {
	s      *Sim
	number int
	id     id.Node
	dc     string
	fs     *vfs.Mem
	cold   *wal.MemCold

	// Of the present process.
	up        bool
	life      uint64 // counts processes
	paused    bool
	waiting   []func() // what happens to a paused process once it goes on
	flushing  bool
	submitted bool // something, to the log, since it was last seen to be empty
	flipped   bool // bits were flipped on its disk
	log       *wal.Log
	snaps     *snapshot.Store
	host      *raftgroup.Host
	svc       *catalog.Service
	subs      []*subscriber
	asking    map[int]bool // structures that are being asked for
	calls     []served
	published []raftgroup.Hosted // what gossip knows of its replicas
	lists     int                // lists of replicas that were given to gossip
	listed    int                // the one that has arrived last
	clock     time.Duration      // how far its clock is off
	diskDelay time.Duration
	after     *vfs.Mem // the disk as the crash amid an operation leaves it

	resident // of a town
}

// What file operations give after the power went, and when a sync fails.
var (
	errPower = errors.New("power lost")
	errSync  = errors.New("sync failed")
)

// logFailed reports whether the node's log takes nothing any more.
func (n *node) logFailed() bool { return errors.Is(n.log.Health(), wal.ErrFailed) }

// Now is the node's clock for durations; wall is its time of day.
func (n *node) Now() time.Time  { return n.s.now }
func (n *node) wall() time.Time { return n.s.now.Add(n.clock) }

func (n *node) start() error {
	n.life++
	n.flushing, n.submitted, n.paused, n.waiting, n.subs, n.after = false, true, false, nil, nil, nil
	n.published, n.lists, n.listed, n.asking = nil, 0, 0, make(map[int]bool)
	n.diskDelay = time.Millisecond
	var err error
	n.log, err = wal.Open(wal.Options{
		FS: n.disk(), Dir: "wal", SegmentSize: segmentSize, HotBytes: 4 * segmentSize, ReserveBytes: 1 << 20, CacheBytes: 64 << 10,
		Cold: n.cold, Entropy: n.s.random(n, 1), Logger: n.logger(),
	})
	if err != nil {
		return fmt.Errorf("node %d: %w", n.number, err)
	}
	n.s.watch.reopened(n)
	n.s.damaged(n)
	if n.snaps, err = snapshot.OpenStore(snapshot.Options{FS: n.disk(), Dir: "snapshots", Logger: n.logger()}); err != nil {
		return fmt.Errorf("node %d: %w", n.number, err)
	}
	cfg := raftgroup.Config{
		Node: n.id, Incarnation: n.life, Log: watchedLog{n.log, n, n.life}, Snapshots: n.snaps, Network: endpoint{n}, Directory: n.directory(),
		Clock: n, Wall: n.wall, Tasks: tasks{n}, Random: n.s.random(n, 2), Logger: n.logger(), CompactionTail: 8,
		// Shorter than most faults last, so that sessions of the living expire too.
		SessionTimeout: 2 * time.Second, SnapshotTimeout: 5 * time.Second,
		// In every other run, short enough that voters are replaced while
		// their nodes are away.
		ReplaceAfter: []time.Duration{4 * time.Second, time.Minute}[n.s.seed/3%2],
		// Short enough that groups rest between two proposals.
		QuietAfter: []time.Duration{50 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second}[n.s.seed%3],
		// In every other run, each group is as patient as among many.
		Crowd: []int{1, 16}[n.s.seed/2%2],
	}
	if n.s.town != nil {
		n.s.town.configure(n, &cfg)
	}
	if n.host, err = raftgroup.NewHost(cfg); err != nil {
		return fmt.Errorf("node %d: %w", n.number, err)
	}
	n.up = true
	if err := n.startCatalog(); err != nil {
		return fmt.Errorf("node %d: %w", n.number, err)
	}
	n.host.Resume()
	n.s.rec.Start(uint16(n.number), uint32(n.life))
	if n.s.town != nil {
		n.s.town.started(n)
		return nil
	}
	n.tickLater(n.life)
	n.work()
	for _, o := range n.s.nodes {
		if o != n && o.up {
			o.host.PeerUp(n.id, n.life)
			o.work()
		}
	}
	return nil
}

// when runs f now, or when the process goes on.
func (n *node) when(f func()) {
	if n.paused {
		if len(n.waiting) < 10_000 { // sockets are bounded too
			n.waiting = append(n.waiting, f)
		}
		return
	}
	f()
}

func (n *node) pause() { n.paused = true }
func (n *node) resume() {
	n.paused = false
	waiting := n.waiting
	n.waiting = nil
	for _, f := range waiting {
		if n.up && !n.paused {
			f()
		}
	}
}

func (n *node) tickLater(life uint64) {
	n.s.after(tick, func() {
		if !n.up || n.life != life {
			return
		}
		if !n.paused {
			n.host.Tick()
			n.work()
			if n.up {
				n.s.watch.status(n)
			}
		}
		n.tickLater(life)
	})
}

// work steps what is ready, and has written what is to be.
func (n *node) work() {
	stepped := false
	for n.up && n.after == nil && n.host.Step() {
		stepped = true
	}
	if n.after != nil {
		n.crashed()
		return
	}
	if !n.up {
		return
	}
	if n.submitted && !n.flushing {
		n.submitted = n.log.Stats().QueuedUpdates > 0
	}
	if n.submitted && !n.flushing {
		n.flushing = true
		life := n.life
		n.s.after(n.s.between(50*time.Microsecond, n.diskDelay), func() {
			if n.up && n.life == life {
				n.when(n.flush)
			}
		})
	}
	if stepped && n.s.town != nil {
		n.s.town.stepped(n)
	}
	if life := n.life; n.host.HasJob() {
		n.s.after(0, func() {
			if n.up && n.life == life && !n.paused && n.host.HasJob() {
				tasks{n}.Go(func() { n.host.RunJob() })
			}
		})
	}
}

func (n *node) flush() {
	n.flushing = false
	_, err := n.log.Flush()
	if n.s.town == nil {
		n.s.note(uint64(n.number), n.log.Stats().BytesWritten)
	}
	if n.after == nil && err == nil && n.s.chance(0.05) {
		if _, err := n.log.Reclaim(); err != nil && n.after == nil {
			n.s.note(1)
		}
	}
	n.work()
}

// crash takes the power away now.
func (n *node) crash(rng *rand.Rand) {
	if !n.up {
		return
	}
	n.after = n.fs.Crash(rng.Uint64())
	n.crashed()
}

// crashAmid takes the power away amid one of the next file operations.
func (n *node) crashAmid(rng *rand.Rand) {
	left, seed := rng.IntN(40), rng.Uint64()
	n.fs.SetFault(func(vfs.Op, string, int64, int64) error {
		if n.after != nil {
			return errPower
		}
		if left--; left >= 0 {
			return nil
		}
		n.after = n.fs.Crash(seed)
		return errPower
	})
}

// crashed ends the process whose disk is in after.
func (n *node) crashed() {
	n.fs, n.after = n.after, nil
	n.cold = n.cold.Crash()
	n.up, n.subs = false, nil
	n.hangUp()
	if n.s.chance(0.5) { // the machine goes on, and says that nobody is there
		for _, o := range n.s.nodes {
			o.hearRefusal(n)
		}
	}
	n.s.crashes++
	if n.s.town != nil {
		n.s.town.changed()
	}
	n.s.rec.Crash(uint16(n.number), uint32(n.life))
}

// hearRefusal has a node see its connection with another one break, and be
// refused when it connects again, soon after. The other may be back by then, or
// may never have been away.
func (n *node) hearRefusal(other *node) {
	if n == other || !n.up {
		return
	}
	life := n.life
	hear := func(f func(id.Node)) func() {
		return func() {
			if n.up && n.life == life {
				n.when(func() { f(other.id); n.work() })
			}
		}
	}
	broke := n.s.between(100*time.Microsecond, 200*time.Millisecond)
	n.s.after(broke, hear(n.host.PeerDown))
	n.s.after(broke+n.s.between(100*time.Microsecond, 200*time.Millisecond), hear(n.host.PeerRefused))
}

// prepare makes the node's first replica of a group, while nothing else happens.
func (n *node) prepare(g raftgroup.Genesis) error {
	return n.s.wait(n, "the first replica was not made", func() error {
		if err := n.host.Prepare(context.Background(), g); err != nil {
			return err
		}
		return n.host.StartPrepared(context.Background(), g.Token, id.Incarnation{Birth: 2})
	})
}

// disk is the node's disk as its process sees it.
func (n *node) disk() vfs.FS {
	if n.s.opt.Disk != nil {
		return n.s.opt.Disk(n.fs)
	}
	return n.fs
}

// directory is gossip as the node sees it.
func (n *node) directory() raftgroup.Directory {
	if n.s.town != nil {
		return gossip{n}
	}
	return directory{n}
}

func (n *node) logger() *slog.Logger {
	if n.s.opt.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(virtual{n.s.opt.Logger.Handler(), n.s}).With("node", n.number, "life", n.life)
}

// virtual puts the simulation's time on what is logged.
type virtual struct {
	slog.Handler
	s *Sim
}

// Handle implements slog.Handler.
func (v virtual) Handle(ctx context.Context, r slog.Record) error {
	r.Time = v.s.now
	return v.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (v virtual) WithAttrs(attrs []slog.Attr) slog.Handler {
	return virtual{v.Handler.WithAttrs(attrs), v.s}
}

// WithGroup implements slog.Handler.
func (v virtual) WithGroup(name string) slog.Handler { return virtual{v.Handler.WithGroup(name), v.s} }
