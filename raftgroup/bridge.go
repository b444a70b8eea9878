package raftgroup

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/pb/grouppb"
)

// A subscription whose replica is taken away by healing gets another one, whose
// log begins behind the snapshot that it was seeded with. A snapshot that was made
// meanwhile may be a little newer than the place where the delivery stands. The
// other replicas keep the entries before it for a while (Config.CompactionTail):
// so those in between are asked for, and the consumer need not load.

// maxBridge bounds the entries that are kept for a delivery meanwhile.
const maxBridge = 4 << 20

// bridge is a stretch of the log on its way from other replicas.
type bridge struct {
	done    chan struct{} // closed: entries are here, or none are to be had
	entries []*raftpb.Entry
}

// build begins to get what is missing between the delivery's place and the
// replica's log, if that is little. Nil: it is not, or the host closes.
func (d *deliverer) build() *bridge {
	g, h, at := d.g, d.sub.host, d.c.state
	first, err := g.store.FirstIndex()
	if err != nil || first <= at.index+1 || first-at.index-1 > h.cfg.CompactionTail {
		return nil
	}
	b, from, term := &bridge{done: make(chan struct{})}, at.index+1, at.term
	begun := h.spawn(func() {
		entries, err := h.stretch(g, from, first, term)
		if err != nil {
			g.log.Debug("entries before this replica's log are not to be had, its subscription loads", "from", from, "to", first, "error", err)
		}
		b.entries = entries
		close(b.done)
		d.sub.notify()
	})
	if !begun {
		return nil
	}
	return b
}

// cross goes on where the replica's log begins behind the delivery's place: over
// a bridge, the first time after the replica came, or by a load.
func (d *deliverer) cross() step {
	if d.moved && d.over == nil {
		d.over = d.build()
	}
	d.moved = false
	if d.over == nil {
		return d.jump(d.g, false)
	}
	select {
	case <-d.over.done:
	default:
		return stepWait
	}
	d.c.ahead, d.over = d.over.entries, nil
	if len(d.c.ahead) == 0 {
		return d.jump(d.g, false)
	}
	return 0
}

// stretch asks the other replicas for the committed entries from first up to but
// without end: all of them, or none. The entry before first is of a term.
func (h *Host) stretch(g *Group, first, end, term uint64) ([]*raftpb.Entry, error) {
	ctx, cancel := h.tasks.Within(h.ctx, h.cfg.CallTimeout)
	defer cancel()
	st := g.Status()
	members := append(nodesOf(st.Voters), nodesOf(st.Learners)...)
	errs := []error{fmt.Errorf("group %s: no replica reached that has the entries from %d on", g.key, first)}
	for _, node := range h.sources(g.key.Structure, st.LeaderNode, members) {
		var got []*raftpb.Entry
		bytes, least := 0, term
		for next := first; next < end && ctx.Err() == nil; next = first + uint64(len(got)) {
			req := grouppb.EntriesRequest{
				Structure: g.key.Structure[:], Birth: g.key.Incarnation.Birth, Recovery: g.key.Incarnation.Recovery, First: next, MaxBytes: mendBatch,
			}
			var resp grouppb.EntriesResponse
			entries, err := []*raftpb.Entry(nil), h.ask(ctx, node, methodEntries, &req, &resp)
			if err == nil {
				entries, err = decodeEntries(resp.Entries, next, least)
			}
			if err == nil && len(entries) == 0 {
				err = fmt.Errorf("group %s: entry %d is not there", g.key, next)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("from node %s: %w", node, err))
				break
			}
			for _, e := range entries {
				bytes, least = bytes+len(e.GetData()), e.GetTerm()
			}
			got = append(got, entries...)
			if bytes > maxBridge {
				return nil, fmt.Errorf("group %s: more than %d bytes between entries %d and %d", g.key, maxBridge, first, end)
			}
		}
		if n := end - first; uint64(len(got)) >= n {
			return got[:n], nil
		}
	}
	return nil, errors.Join(errs...)
}
