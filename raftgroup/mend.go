package raftgroup

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/wal"
)

// A committed entry that rots on this node's disk is the same on every other
// replica. So it is fetched again from one of them and kept in memory: whoever
// reads the log finds it there. If the others have compacted it away, they have
// a newer snapshot: a replica that cannot go on without the entry starts over
// behind that one. In both cases it keeps its ReplicaID and its vote, since what
// it has promised (term, vote, which entries it holds) is not in doubt.

const (
	mendPause    = 500 * time.Millisecond
	maxMendPause = 10 * time.Second
	// mendBatch is how much is asked for at once: rot rarely comes alone.
	mendBatch = 256 << 10
	// maxMended bounds what a replica keeps in memory instead of on disk.
	maxMended = 16 << 20
)

// mended holds a replica's entries that its log store cannot read any more.
type mended struct {
	mu      sync.Mutex
	entries map[uint64]*raftpb.Entry
	bytes   int
	busy    bool              // they are being fetched
	wanted  func(uint64) bool // begins to fetch; false: that is not possible now
}

// get returns an entry, or begins to fetch it.
func (m *mended) get(index uint64) *raftpb.Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[index]; e != nil || m.busy || m.wanted == nil {
		return e
	}
	m.busy = m.wanted(index)
	return nil
}

// put keeps entries; what the log has compacted goes.
func (m *mended) put(entries []*raftpb.Entry, first uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, e := range m.entries {
		if i < first {
			delete(m.entries, i)
			m.bytes -= len(e.GetData())
		}
	}
	if m.entries == nil {
		m.entries = make(map[uint64]*raftpb.Entry)
	}
	for _, e := range entries {
		if m.entries[e.GetIndex()] != nil {
			continue
		}
		if m.bytes += len(e.GetData()); m.bytes > maxMended {
			m.bytes -= len(e.GetData())
			return fmt.Errorf("more than %d bytes of the log cannot be read", maxMended)
		}
		m.entries[e.GetIndex()] = e
	}
	return nil
}

// read reads the log; what is damaged in it comes from what was mended.
func (s *groupStorage) read(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	entries, err := s.log.Entries(s.group, lo, hi, maxBytes)
	var damage *wal.DamageError
	if !errors.As(err, &damage) || damage.Index < lo || damage.Index >= hi {
		return entries, err
	}
	if damage.Index > lo {
		return s.log.Entries(s.group, lo, damage.Index, maxBytes)
	}
	if e := s.mended.get(lo); e != nil {
		return []*raftpb.Entry{e}, nil
	}
	return nil, err
}

// mendLater has a damaged entry fetched from another replica, beside the step.
func (g *Group) mendLater(index uint64) bool {
	h := g.host
	return h.spawn(func() {
		defer func() {
			g.store.mended.mu.Lock()
			g.store.mended.busy = false
			g.store.mended.mu.Unlock()
		}()
		for pause := mendPause; ; pause = min(2*pause, maxMendPause) {
			err := h.mend(g, index)
			if err == nil {
				return
			}
			g.log.Warn("damaged entry is not mended yet", "index", index, "error", err)
			if !h.sleep(pause) || !h.has(g) {
				return
			}
		}
	})
}

// spawn runs f as a task, unless the host closes: Close waits for what was
// begun before.
func (h *Host) spawn(f func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.tasks.Go(f)
	return true
}

// repairBehind has a replica that waits for its snapshot, which it did not get,
// start behind a newer one: its holders may have done with that one long since.
func (h *Host) repairBehind(g *Group, gone SnapshotRef) {
	began := h.spawn(func() {
		var newest SnapshotRef
		req := grouppb.EntriesRequest{Structure: g.key.Structure[:], Birth: g.key.Incarnation.Birth, Recovery: g.key.Incarnation.Recovery}
		for _, node := range h.sources(g.key.Structure, id.Node{}, nil) {
			var resp grouppb.EntriesResponse
			if err := h.ask(h.ctx, node, methodEntries, &req, &resp); err != nil {
				continue
			}
			if ref, err := decodeRef(resp.Snapshot); err == nil && ref.Index > newest.Index {
				newest = ref
			}
		}
		if newest.Index > gone.Index {
			if err := h.goOn(g, newest); err != nil {
				g.log.Warn("replica still waits for a snapshot", "snapshot", newest.Index, "error", err)
			}
		}
		g.call(func() { g.snaps.fetching, g.snaps.nextFetch = false, g.now.Add(fetchRetry) })
	})
	if !began {
		g.snaps.fetching = false
	}
}

// has reports whether a replica is still one of this host's.
func (h *Host) has(g *Group) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.groups[g.key] == g
}

// mend fetches a damaged entry, and what follows it; or, if nobody has it any
// more, the snapshot that made it superfluous.
func (h *Host) mend(g *Group, index uint64) error {
	first, err := h.log.FirstIndex(g.local)
	if err != nil {
		return err
	}
	if index < first {
		return nil // compacted meanwhile
	}
	if _, err := h.log.Entries(g.local, index, index+1, 1); err == nil {
		return h.goOn(g, SnapshotRef{}) // the disk had refused it, or was full, and gives it now
	}
	entries, newer, err := h.fetchEntries(g, index)
	switch {
	case err == nil:
		g.log.Info("damaged entries are mended, for as long as this process runs", "index", index, "count", len(entries))
		if err := g.store.mended.put(entries, first); err != nil {
			return fmt.Errorf("group %s: %w", g.key, err)
		}
		return h.goOn(g, SnapshotRef{})
	case newer.Index >= index:
		return h.goOn(g, newer)
	}
	return err
}

// fetchEntries asks the other replicas for committed entries from index on. If
// none has them any more, it tells the newest snapshot that one has instead.
func (h *Host) fetchEntries(g *Group, index uint64) ([]*raftpb.Entry, SnapshotRef, error) {
	term, err := h.log.Term(g.local, index)
	if err != nil {
		return nil, SnapshotRef{}, err
	}
	st := g.Status()
	var members []id.Node
	members = append(members, nodesOf(st.Voters)...)
	members = append(members, nodesOf(st.Learners)...)
	var newer SnapshotRef
	errs := []error{fmt.Errorf("group %s: entry %d: no replica reached that has it", g.key, index)}
	req := grouppb.EntriesRequest{
		Structure: g.key.Structure[:], Birth: g.key.Incarnation.Birth, Recovery: g.key.Incarnation.Recovery,
		First: index, MaxBytes: mendBatch,
	}
	for _, node := range h.sources(g.key.Structure, st.LeaderNode, members) {
		var resp grouppb.EntriesResponse
		err := h.ask(h.ctx, node, methodEntries, &req, &resp)
		if err == nil && len(resp.Entries) > 0 {
			var entries []*raftpb.Entry
			if entries, err = decodeEntries(resp.Entries, index, term); err == nil && entries[0].GetTerm() != term {
				err = fmt.Errorf("%w: entry %d of term %d instead of %d", errBadMessage, index, entries[0].GetTerm(), term)
			}
			if err == nil {
				return entries, SnapshotRef{}, nil
			}
		}
		if ref, rerr := decodeRef(resp.Snapshot); rerr == nil && ref.Index > newer.Index {
			newer = ref
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("from node %s: %w", node, err))
		}
	}
	return nil, newer, errors.Join(errs...)
}

// decodeEntries checks that entries are the ones that were asked for: one
// follows the other, from first on, of a term or later ones.
func decodeEntries(data [][]byte, first, term uint64) ([]*raftpb.Entry, error) {
	out := make([]*raftpb.Entry, 0, len(data))
	for i, b := range data {
		e := new(raftpb.Entry)
		if err := proto.Unmarshal(b, e); err != nil {
			return nil, fmt.Errorf("%w: entry: %w", errBadMessage, err)
		}
		if e.GetIndex() != first+uint64(i) || e.GetTerm() < term {
			return nil, fmt.Errorf("%w: entry %d of term %d instead of %d behind term %d", errBadMessage, e.GetIndex(), e.GetTerm(), first+uint64(i), term)
		}
		term = e.GetTerm()
		out = append(out, e)
	}
	return out, nil
}

// serveEntries gives committed entries to a replica that cannot read its own.
func (h *Host) serveEntries(request []byte) (protoMessage, error) {
	var req grouppb.EntriesRequest
	if err := req.Unmarshal(request); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadMessage, err)
	}
	s, err := id.StructureFromBytes(req.Structure)
	if err != nil {
		return nil, err
	}
	key := id.Group{Structure: s, Incarnation: id.Incarnation{Birth: req.Birth, Recovery: req.Recovery}}
	h.mu.Lock()
	g := h.groups[key]
	h.mu.Unlock()
	if g == nil {
		return nil, fmt.Errorf("group %s: %w", key, ErrUnknownGroup)
	}
	applied := g.applied.Load() // what is applied is committed
	resp := &grouppb.EntriesResponse{Snapshot: encodeRef(g.Status().Snapshot)}
	if req.First == 0 || req.First > applied {
		return resp, nil
	}
	entries, err := h.log.Entries(g.local, req.First, applied+1, min(req.MaxBytes, mendBatch))
	if errors.Is(err, wal.ErrCompacted) {
		return resp, nil
	}
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", key, err)
	}
	for _, e := range entries {
		b, err := proto.Marshal(e)
		if err != nil {
			return nil, err
		}
		resp.Entries = append(resp.Entries, b)
	}
	return resp, nil
}

// goOn lets a replica go on after its log was mended. One that has stopped
// over the damage, or waits for a snapshot, is started again: behind another
// snapshot, if one is named.
func (h *Host) goOn(g *Group, behind SnapshotRef) error {
	stopped, err := inStep(h.ctx, g, func(reply func(bool, error)) {
		for _, sub := range g.subs {
			sub.notify()
		}
		reply((g.failure != nil || g.repairing) && !g.retired, nil)
	})
	if errors.Is(err, ErrClosed) || err == nil && !stopped {
		// One that runs fetches what is announced by itself, and cursors follow.
		return nil
	}
	if err != nil {
		return err
	}
	if behind.Index != 0 {
		st := g.Status()
		g.files.want(behind) // until it starts again
		if _, _, err := h.fetch(g, behind, st.LeaderNode, nodesOf(st.Voters)); err != nil {
			g.files.forget(behind)
			return err
		}
	}
	if err := h.log.Health(); err != nil {
		return fmt.Errorf("group %s: start again: %w", g.key, err)
	}
	_, err = inStep(h.ctx, g, func(reply func(struct{}, error)) {
		if !h.takeOff(g, true) {
			reply(struct{}{}, fmt.Errorf("group %s: %w", g.key, ErrClosed))
			return
		}
		reply(struct{}{}, nil)
	})
	if err != nil {
		return err
	}
	return h.openAgain(g, behind)
}

// startAgain opens a replica anew whose group has been dropped. What that one
// had submitted is durable, or never will be, before this reads the log.
func (h *Host) startAgain(g *Group, behind SnapshotRef) (*Group, error) {
	g.files.end() // those of the replica as it starts again begin with what is written here
	u := wal.Update{Group: g.local}
	meta := g.meta
	if behind.Index != 0 {
		st, err := h.log.State(g.local)
		if err != nil {
			return nil, err
		}
		hard := st.HardState
		if hard == nil {
			hard = &raftpb.HardState{}
		}
		meta.Previous, meta.Snapshot = meta.Snapshot, encodeRef(behind)
		u.Compact = &wal.Mark{Index: behind.Index, Term: behind.Term}
		u.HardState = &raftpb.HardState{
			Term: new(max(hard.GetTerm(), behind.Term)), Vote: new(hard.GetVote()), Commit: new(max(hard.GetCommit(), behind.Index)),
		}
		if behind.Term > hard.GetTerm() {
			u.HardState.Vote = new(uint64(0)) // a vote is for its term
		}
	}
	data, err := encodeReplica(meta, g.genesis)
	if err != nil {
		return nil, err
	}
	u.Meta = data
	if err := h.write(u); err != nil {
		return nil, fmt.Errorf("group %s: start again: %w", g.key, err)
	}
	st, err := h.log.State(g.local)
	if err != nil {
		return nil, fmt.Errorf("group %s: start again: %w", g.key, err)
	}
	g.log.Info("replica starts again, its log is mended", "behind", behind.Index)
	return h.openMended(st, g.store.mended)
}
