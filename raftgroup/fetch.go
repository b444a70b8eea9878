package raftgroup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/snapshot"
)

// fetchStall is how long a transfer may stand still before another holder is
// tried. There is no limit on a whole transfer: one that moves is not given up.
const fetchStall = 15 * time.Second

// errStalled says that a transfer stood still for too long.
var errStalled = errors.New("transfer stands still")

// fetchSnapshot gets a snapshot's file onto this node, if it is not here yet,
// and calls done in the group's step with the state that it holds. A group has
// two under way at most: one that it wants, and one that its leader offers. What
// came in vain of others makes room first: they may not come again.
func (h *Host) fetchSnapshot(g *Group, ref SnapshotRef, holder id.Node, done func(*state, error)) {
	var members []id.Node
	if g.state != nil {
		members = nodesOf(g.state.members)
	}
	h.clearSnapshots(g)
	h.jobs.transfers.add(func() {
		s, _, err := h.fetch(g, ref, holder, members)
		g.call(func() { done(s, err) })
	})
}

// nodesOf lists where members live, by their ReplicaIDs: what is tried first
// must not depend on map order.
func nodesOf(members map[id.Replica]id.Node) []id.Node {
	nodes := make([]id.Node, 0, len(members))
	for _, r := range slices.Sorted(maps.Keys(members)) {
		nodes = append(nodes, members[r])
	}
	return nodes
}

// errNotHere says that the replica for which something is fetched has been removed.
var errNotHere = errors.New("replica was removed")

// fetch gets a snapshot's file from one holder after the other. What came in
// vain stays for the next try; came tells how many bytes that is.
func (h *Host) fetch(g *Group, ref SnapshotRef, holder id.Node, members []id.Node) (_ *state, came int64, _ error) {
	defer func() {
		// Its files were removed beside this, which may have made some since.
		if g.files.gone.Load() {
			if err := h.snaps.RemoveGroup(g.local); err != nil {
				h.cfg.Logger.Warn("snapshots of a removed replica are left, until the next start", "local", g.local, "error", err)
			}
		}
	}()
	g.files.settle()
	if s, err := h.snapshotState(g, ref); err == nil {
		return s, 0, h.snaps.Confirm(g.local) // found, perhaps of a process that ended amid its commit
	}
	errs := []error{fmt.Errorf("group %s: snapshot %d: no holder reached", g.key, ref.Index)}
	for _, node := range h.sources(g.key.Structure, holder, members) {
		n, err := h.fetchFrom(g, ref, node)
		came += n
		if err == nil {
			s, err := h.snapshotState(g, ref)
			return s, came, err
		}
		if h.ctx.Err() != nil || errors.Is(err, errNotHere) {
			return nil, came, err
		}
		errs = append(errs, fmt.Errorf("from node %s: %w", node, err))
	}
	return nil, came, errors.Join(errs...)
}

// sources orders who may have a snapshot: those in this node's data center
// first, since the WAN is what a snapshot should cross least, then the nearest.
func (h *Host) sources(s id.Structure, holder id.Node, members []id.Node) []id.Node {
	dc := make(map[id.Node]string)
	for _, n := range h.dir.Nodes() {
		dc[n.ID] = n.DataCenter
	}
	all := append([]id.Node{holder}, h.dir.Holders(s)...)
	all = append(all, members...)
	var near, far []id.Node
	for _, n := range all {
		_, live := dc[n]
		switch {
		case n == h.cfg.Node || n.IsZero() || slices.Contains(near, n) || slices.Contains(far, n):
		case live && dc[n] == dc[h.cfg.Node]:
			near = append(near, n)
		default:
			far = append(far, n)
		}
	}
	return append(near, h.nearestFirst(far)...)
}

// nearestFirst orders nodes by their round trips, those that are not known last.
func (h *Host) nearestFirst(nodes []id.Node) []id.Node {
	if h.cfg.RTT == nil {
		return nodes
	}
	away := make(map[id.Node]time.Duration, len(nodes))
	for _, n := range nodes {
		away[n] = math.MaxInt64
		if rtt, ok := h.cfg.RTT(n); ok {
			away[n] = rtt
		}
	}
	slices.SortStableFunc(nodes, func(a, b id.Node) int { return cmp.Compare(away[a], away[b]) })
	return nodes
}

func (h *Host) fetchFrom(g *Group, ref SnapshotRef, node id.Node) (came int64, err error) {
	r, err := h.snaps.Receive(g.local, ref)
	if err != nil {
		return 0, err
	}
	came, err = h.receiveFrom(g, r, ref, node)
	if err != nil {
		return came, errors.Join(err, r.Close()) // the part that came stays, for the next try
	}
	return came, errors.Join(r.Commit(), r.Close())
}

func (h *Host) receiveFrom(g *Group, r *snapshot.Receiver, ref SnapshotRef, node id.Node) (came int64, err error) {
	key := g.key
	req := grouppb.FetchRequest{
		Structure: key.Structure[:], Birth: key.Incarnation.Birth, Recovery: key.Incarnation.Recovery,
		Ref: encodeRef(ref), Offset: r.Offset(),
	}
	body, err := req.Marshal()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(h.ctx)
	defer cancel(nil)
	stall := time.AfterFunc(fetchStall, func() { cancel(fmt.Errorf("%w for %s", errStalled, fetchStall)) })
	defer stall.Stop()
	in, err := h.net.Fetch(ctx, node, body)
	if err != nil {
		return 0, errors.Join(err, context.Cause(ctx))
	}
	defer in.Close() // again, perhaps: closing twice does nothing
	// Not every stream hears of the context while it is read: closing it ends the read.
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(closed); in.Close() })
	defer func() {
		if !stop() {
			<-closed
		}
	}()
	moved := func() error {
		stall.Reset(fetchStall)
		if g.files.gone.Load() {
			return fmt.Errorf("group %s: %w", key, errNotHere)
		}
		return nil
	}
	came, err = io.Copy(r, &pacedReader{ctx, h, &movingReader{in, moved}})
	if err != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	return came, err
}

// movingReader tells that a stream moves, and hears whether it is still wanted.
type movingReader struct {
	io.Reader
	moved func() error
}

func (m *movingReader) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	if n > 0 {
		if merr := m.moved(); merr != nil {
			return n, merr
		}
	}
	return n, err
}

// HandleStream serves a snapshot's file to another node.
func (h *Host) HandleStream(ctx context.Context, _ id.Node, request []byte, w io.Writer) error {
	var req grouppb.FetchRequest
	if err := req.Unmarshal(request); err != nil {
		return fmt.Errorf("%w: %w", errBadMessage, err)
	}
	s, err := id.StructureFromBytes(req.Structure)
	if err != nil {
		return err
	}
	ref, err := decodeRef(req.Ref)
	if err != nil {
		return err
	}
	key := id.Group{Structure: s, Incarnation: id.Incarnation{Birth: req.Birth, Recovery: req.Recovery}}
	h.mu.Lock()
	g := h.groups[key]
	h.mu.Unlock()
	if g == nil {
		return fmt.Errorf("group %s: %w", key, ErrUnknownGroup)
	}
	in, err := h.snaps.Raw(g.local, ref, req.Offset)
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := io.Copy(&pacedWriter{ctx, h, w}, in); err != nil {
		return fmt.Errorf("group %s: serve snapshot %d: %w", key, ref.Index, err)
	}
	return ctx.Err()
}

// snapshotState reads the applied state out of a snapshot's head.
func (h *Host) snapshotState(g *Group, ref SnapshotRef) (*state, error) {
	r, err := h.snaps.Open(g.local, ref)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return stateOf(g, r)
}

func stateOf(g *Group, r *snapshot.Reader) (*state, error) {
	head := r.Head()
	// A group that was rebuilt goes on with the snapshots of its life before.
	ours := head.Incarnation == g.key.Incarnation || (head.Incarnation.Birth == g.key.Incarnation.Birth && head.Incarnation.Less(g.key.Incarnation))
	if head.Structure != g.key.Structure || !ours {
		return nil, fmt.Errorf("group %s: snapshot is of %s@%s", g.key, head.Structure, head.Incarnation)
	}
	s, err := decodeState(g.key, head.State)
	if err != nil {
		return nil, err
	}
	// Who wrote it may have a bug, or lie: a replica that starts here would stand
	// at another place than its log, and stop at the next entry.
	if s.index != head.Index || s.term != head.Term || s.commits != head.Commits {
		return nil, fmt.Errorf("group %s: %w: the state in snapshot %d of index %d, term %d is that of commit %d, index %d, term %d",
			g.key, ErrMalformedEntry, head.Commits, head.Index, head.Term, s.commits, s.index, s.term)
	}
	return s, nil
}

// loadPoint opens what a delivery starts from: the newest snapshot held, with
// the state as of it, or without one the state before the first entry.
func (h *Host) loadPoint(g *Group) (*loadPoint, error) {
	for {
		ref := g.point.Load()
		if ref == nil {
			return &loadPoint{state: newState(g.key, g.genesis.Members, g.genesis.Options)}, nil
		}
		r, err := h.snaps.Open(g.local, *ref)
		if err != nil {
			if newer := g.point.Load(); newer != nil && *newer != *ref {
				continue // replaced meanwhile
			}
			g.call(func() { g.refetch(*ref, err) })
			return nil, err
		}
		s, err := stateOf(g, r)
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		return &loadPoint{state: s, reader: r, ref: *ref}, nil
	}
}

// loadPoint is a place from which delivery can go on.
type loadPoint struct {
	state  *state
	reader *snapshot.Reader // nil: the place before the first entry
	ref    SnapshotRef
}

// refetch gets a snapshot that is held in name, but whose file went bad.
func (g *Group) refetch(ref SnapshotRef, cause error) {
	if g.snaps.held != ref || g.snaps.fetching {
		return
	}
	g.lastError = cause
	var damage *snapshot.DamageError
	if errors.As(cause, &damage) {
		g.log.Error("snapshot damaged: set aside, fetching it again", "snapshot", ref.Index, "error", cause)
		if err := g.host.snaps.SetAside(g.local, ref); err != nil {
			g.log.Error("damaged snapshot not set aside", "snapshot", ref.Index, "error", err)
		}
	}
	g.snaps.fetching = true
	g.host.fetchSnapshot(g, ref, g.state.announced.node, func(_ *state, err error) {
		g.snaps.fetching = false
		if err != nil {
			g.log.Error("snapshot not fetched again", "snapshot", ref.Index, "error", err)
		}
	})
}

// retainSnapshots removes the files that no frame names any more.
func (h *Host) retainSnapshots(g *Group) {
	h.jobs.files.addOnce(g, func() {
		if err := g.files.retain(h.snaps, g.local); err != nil {
			g.log.Warn("old snapshots not removed", "error", err)
		}
	})
}

// clearSnapshots removes what was cut short of files that nobody wants any more.
func (h *Host) clearSnapshots(g *Group) {
	type clearing struct{ *Group }
	h.jobs.files.addOnce(clearing{g}, func() {
		if err := g.files.clear(h.snaps, g.local); err != nil {
			g.log.Warn("what is left of cut transfers is not removed", "error", err)
		}
	})
}
