package operator

import (
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/snapshot"
	"github.com/copycat-replication/copycat/wal"
)

// ErrKept says that a replica is not to be removed; the text says why.
var ErrKept = errors.New("not removed")

// PurgeFile is the file in a data directory to which each replica that was
// purged from it is added, as a line of JSON.
const PurgeFile = "purges.jsonl"

// Leftover is a replica that its node keeps for an operator, and does not use
// any more: its group was rebuilt from another one, or its log is damaged.
type Leftover struct {
	Group  Group    `json:"group"`
	Others []string `json:"others"`         // replicas of the same structure here that are used, as people read them
	Bytes  int64    `json:"bytes"`          // of its snapshots
	Used   bool     `json:"used,omitempty"` // it is none: the node uses it, and the operator wants it removed all the same
}

// Leftovers lists what a directory keeps and does not use; of the structure used,
// if that is not empty, also the replicas that the node uses.
func Leftovers(dir, used string) ([]Leftover, Report, error) {
	r, err := Inspect(dir, false)
	if err != nil {
		return nil, Report{}, fmt.Errorf("%s: %w", dir, err)
	}
	if r.Identity == nil {
		return nil, Report{}, fmt.Errorf("%s: %w: no identity: %v", dir, ErrKept, r.Damage)
	}
	var out []Leftover
	for _, g := range r.Groups {
		inUse := !g.isLeftover() && g.Phase == raftgroup.PhaseStarted && used != "" && g.Structure == used
		if !g.isLeftover() && !inUse {
			continue
		}
		l := Leftover{Group: g, Others: []string{}, Used: inUse}
		for _, s := range g.Snapshots {
			l.Bytes += max(s.Bytes, 0)
		}
		for _, o := range r.Groups {
			if o.Structure == g.Structure && o.Local != g.Local && g.Structure != "" && !o.isLeftover() && o.Phase == raftgroup.PhaseStarted {
				l.Others = append(l.Others, fmt.Sprintf("replica %d of %s, %d changes", o.Replica, o.Incarnation, o.Changes))
			}
		}
		out = append(out, l)
	}
	return out, r, nil
}

func (g *Group) isLeftover() bool {
	return g.SetAside != "" || g.Phase == raftgroup.PhaseSuperseded
}

// Check says why a leftover should rather stay: that a replica is superseded is
// proven, so that its group goes on without it; one that was set aside may be
// the last trace of what it held.
func (l *Leftover) Check() error {
	if l.Used || l.Group.Phase == raftgroup.PhaseSuperseded || len(l.Others) > 0 {
		return nil
	}
	return fmt.Errorf("%w: it is set aside, and no other replica of the structure is in this directory: the node gets one when it runs and its group has a quorum", ErrKept)
}

// PurgeRecord is the durable record of one removal.
type PurgeRecord struct {
	At     time.Time `json:"at"`
	NodeID string    `json:"node_id"`
	Reason string    `json:"reason"`
	What   Leftover  `json:"what"`
}

// Purge removes leftovers from a stopped node's directory, log and snapshots. It
// takes the directory's lock (vfs.ErrLocked if a node runs on it), refuses with
// ErrKept what is not kept for an operator any more, or never was, and does not
// check whether it is wise: Leftover.Check does. Each is recorded in PurgeFile
// once its log is gone for good, and before done hears of it; an error ends it,
// and what was removed before that stays so.
func Purge(dir string, some []Leftover, reason string, now time.Time, done func(PurgeRecord)) (err error) {
	fsys := vfs.OS{}
	r := Report{Dir: dir}
	if r.readIdentity(fsys); r.Identity == nil {
		return fmt.Errorf("%s: %w: no identity: %v", dir, ErrKept, r.Damage)
	}
	node, err := openStopped(dir, PurgeFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.close()) }()
	snaps, err := snapshot.OpenStore(snapshot.Options{FS: fsys, Dir: path.Join(dir, "snapshots"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snaps.Close()) }()
	for _, o := range some {
		if err := purgeOne(node.log, o); err != nil {
			return fmt.Errorf("log number %d: %w", o.Group.Local, err)
		}
		rec := PurgeRecord{At: now.UTC(), NodeID: r.Identity.NodeID, Reason: reason, What: o}
		if err := node.tell(rec); err != nil {
			return fmt.Errorf("the log of replica %d of %s was removed, and %s does not tell: %w", o.Group.Replica, o.Group.Structure, PurgeFile, err)
		}
		if err := snaps.RemoveGroup(o.Group.Local); err != nil {
			return fmt.Errorf("snapshots of log number %d are left, until the node's next start: %w", o.Group.Local, err)
		}
		done(rec)
	}
	return node.sync()
}

// purgeOne removes a replica from the log, if that still keeps it as it was shown.
func purgeOne(l *wal.Log, o Leftover) error {
	suspect := slices.ContainsFunc(l.Suspects(), func(s wal.Suspect) bool { return s.Group == o.Group.Local })
	if !suspect {
		st, err := l.State(o.Group.Local)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrKept, err)
		}
		rec, err := raftgroup.DecodeReplica(st.Meta)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrKept, err)
		}
		fits := rec.Phase == raftgroup.PhaseSuperseded || (o.Used && rec.Phase == raftgroup.PhaseStarted)
		if !fits || rec.Group != o.Group.key {
			return fmt.Errorf("%w: replica %d of %s is %s, and in use", ErrKept, rec.Replica, rec.Group, rec.Phase)
		}
	}
	written := make(chan error, 1)
	l.Submit([]wal.Update{{Group: o.Group.Local, Remove: true}}, func(err error) { written <- err })
	return <-written
}
