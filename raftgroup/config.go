package raftgroup

import (
	"crypto/rand"
	"io"
	"log/slog"
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
	// Crowd is how many groups of the node must be awake for acknowledgements that
	// change nothing to wait for a step, and for ticks to be left out. With few, there
	// is little to be gained, and a dead leader would be noticed later. Default 16.
	Crowd int
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
	setDefault(&c.Crowd, 16)
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
