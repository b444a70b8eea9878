package gossip

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/copycat-replication/copycat/id"
)

// limits bound what a directory holds, whatever it is sent.
type limits struct {
	nodes    int // nodes, self included
	replicas int // per node, removed ones that are still remembered included
}

var defaultLimits = limits{nodes: 4096, replicas: 1 << 18}

// minTombstones is how many removed replicas a node's own list remembers before
// it starts a new generation; with more live replicas than that, as many as
// those. So a list at most doubles, and a node sends its whole list again at
// most once per so many removals.
const minTombstones = 1024

// directory is one node's copy of who hosts what. It is a pure data structure:
// no goroutines, no clock, no network; not safe for concurrent use.
type directory struct {
	self   id.Node
	limits limits
	own    *hosted
	nodes  map[id.Node]*hosted // own included
	index  map[id.Structure][]ref
	live   int // replicas in the index
	// rebuilt counts those in the index whose incarnation has a recovery number.
	rebuilt map[id.Structure]int
}

// ref is a live entry of a list.
type ref struct {
	host        *hosted
	list        *list
	incarnation id.Incarnation
}

func newDirectory(self id.Node, incarnation uint64, bounds limits) *directory {
	d := &directory{self: self, limits: bounds, nodes: make(map[id.Node]*hosted), index: make(map[id.Structure][]ref), rebuilt: make(map[id.Structure]int)}
	d.own = &hosted{node: self, alive: true, answered: true, incarnation: incarnation}
	d.own.current = newList(epoch{incarnation: incarnation})
	d.nodes[self] = d.own
	return d
}

// publish makes replicas this node's list. It returns the sequences (from, to]
// that are new, and whether they are a whole new list (a new generation) rather
// than changes. The first call always makes a sequence, also for an empty list:
// that is how others learn that this incarnation hosts nothing.
func (d *directory) publish(replicas []Replica) (from, to uint64, whole bool, err error) {
	wish := make(map[id.Group]Replica, len(replicas))
	for _, r := range replicas {
		if old, twice := wish[r.Group]; !twice || old.ID < r.ID {
			wish[r.Group] = r
		}
	}
	if len(wish) > d.limits.replicas/2 {
		return 0, 0, false, fmt.Errorf("%w: %d replicas on one node, at most %d", ErrTooMany, len(wish), d.limits.replicas/2)
	}
	l := d.own.current
	changes := diff(l, wish)
	from = l.head
	if len(changes) == 0 && from > 0 {
		return from, from, false, nil
	}
	if tombstones := len(l.entries) + len(changes) - len(wish); tombstones > max(minTombstones, len(wish)) {
		l = d.restartOwn()
		changes, from, whole = diff(l, wish), 0, true
	}
	for i := range changes {
		changes[i].sequence = from + uint64(i) + 1
		d.set(d.own, l, changes[i])
	}
	to = from + max(uint64(len(changes)), 1)
	l.head, l.cover.prefix = to, to
	return from, to, whole, nil
}

// restartOwn begins a new generation of the own list.
func (d *directory) restartOwn() *list {
	old := d.own.current
	d.unindex(d.own, old)
	d.own.current = newList(epoch{old.incarnation, old.generation + 1})
	return d.own.current
}

// diff returns what leads from l to wish, by group, without sequences.
func diff(l *list, wish map[id.Group]Replica) []change {
	var changes []change
	for group, r := range wish {
		if e, ok := l.entries[group]; !ok || e.removed || e.id != r.ID || e.role != r.Role {
			changes = append(changes, change{group, entry{id: r.ID, role: r.Role}})
		}
	}
	for group, e := range l.entries {
		if _, wanted := wish[group]; !wanted && !e.removed {
			changes = append(changes, change{group, entry{id: e.id, role: e.role, removed: true}})
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return compareGroups(a.group, b.group) })
	return changes
}

func compareGroups(a, b id.Group) int {
	return cmp.Or(bytes.Compare(a.Structure[:], b.Structure[:]), compareIncarnations(a.Incarnation, b.Incarnation))
}

func compareIncarnations(a, b id.Incarnation) int {
	switch {
	case a.Less(b):
		return -1
	case b.Less(a):
		return 1
	}
	return 0
}

// outcome says what an update did.
type outcome struct {
	fresh   bool // it told something new: worth passing on
	changed bool // Holders may answer differently now
}

// apply takes in an update, from whomever and in whatever order. Updates about
// the own node, about nodes that are not (or no longer) known, and of older
// epochs are ignored. The directory keeps nothing of u.
func (d *directory) apply(u *update, now int64) (outcome, error) {
	h := d.nodes[u.node]
	if h == nil || h == d.own {
		return outcome{}, nil
	}
	var out outcome
	switch l := h.current; {
	case l != nil && u.epoch.compare(l.epoch) < 0:
		return outcome{}, nil
	case l == nil || u.epoch.compare(l.epoch) > 0:
		d.advance(h, u.epoch, now)
		out.fresh = true
	}
	l := h.current
	whole := l.complete()
	if head := max(u.head, u.to); head > l.head {
		l.head = head
		out.fresh = true
	}
	if !l.cover.has(u.from, u.to) {
		if len(l.entries)+len(u.changes) > d.limits.replicas {
			return out, fmt.Errorf("%w: the list of node %s exceeds %d replicas", ErrTooMany, u.node, d.limits.replicas)
		}
		reached := l.cover.prefix
		if l.cover.add(u.from, u.to) {
			out.fresh = true
			if l.cover.prefix > reached {
				h.movedAt = max(now, 1)
				h.asks, h.askedAt = 0, max(now, 1) // someone answers: be patient, but not ever more
			}
			for _, c := range u.changes {
				out.changed = d.merge(h, l, c) || out.changed
			}
		}
	}
	switch {
	case !l.complete() && u.from == u.to:
		h.holeAt = 0
	case !l.complete() && whole:
		h.holeAt = max(now, 1)
	case l.complete() && h.previous != nil:
		d.dropPrevious(h)
		out.changed = true
	}
	return out, nil
}

// advance begins a newer epoch of a node's list. The newest complete one stays
// behind it, so that a node that restarts twice in a row does not vanish.
func (d *directory) advance(h *hosted, e epoch, now int64) {
	if h.previous == nil || h.current.complete() {
		d.dropPrevious(h)
		h.previous, h.replacedAt = h.current, now
	} else {
		d.unindex(h, h.current)
	}
	h.current = newList(e)
	h.asks, h.askedAt = 0, 0
}

// merge takes in one change: the newest sequence wins, whatever the order.
func (d *directory) merge(h *hosted, l *list, c change) bool {
	old, known := l.entries[c.group]
	if known && old.sequence >= c.sequence {
		return false
	}
	d.set(h, l, c)
	return !known || old.removed != c.removed || old.id != c.id || old.role != c.role
}

// set writes an entry and keeps the index in step.
func (d *directory) set(h *hosted, l *list, c change) {
	old, known := l.entries[c.group]
	l.entries[c.group] = c.entry
	switch was := known && !old.removed; {
	case !was && !c.removed:
		l.live++
		d.live++
		d.index[c.group.Structure] = append(d.index[c.group.Structure], ref{h, l, c.group.Incarnation})
		if c.group.Incarnation.Recovery > 0 {
			d.rebuilt[c.group.Structure]++
		}
	case was && c.removed:
		l.live--
		d.unref(l, c.group)
	}
}

func (d *directory) unref(l *list, group id.Group) {
	refs := d.index[group.Structure]
	i := slices.IndexFunc(refs, func(r ref) bool { return r.list == l && r.incarnation == group.Incarnation })
	if i < 0 {
		return
	}
	d.live--
	if group.Incarnation.Recovery > 0 {
		if d.rebuilt[group.Structure]--; d.rebuilt[group.Structure] == 0 {
			delete(d.rebuilt, group.Structure)
		}
	}
	if len(refs) == 1 {
		delete(d.index, group.Structure)
		return
	}
	d.index[group.Structure] = slices.Delete(refs, i, i+1)
}

// unindex takes all of a list out of the index.
func (d *directory) unindex(h *hosted, l *list) {
	if l == nil {
		return
	}
	for group, e := range l.entries {
		if !e.removed {
			d.unref(l, group)
		}
	}
}

func (d *directory) dropPrevious(h *hosted) {
	d.unindex(h, h.previous)
	h.previous = nil
}

// holders returns who hosts s, in the order that Holders promises.
func (d *directory) holders(s id.Structure) []Holding {
	refs := d.index[s]
	all := make([]found, 0, len(refs))
	for _, r := range refs {
		group := id.Group{Structure: s, Incarnation: r.incarnation}
		if r.list == r.host.previous {
			if _, newer := r.host.current.entries[group]; newer {
				continue
			}
		}
		e := r.list.entries[group]
		all = append(all, found{Holding{r.host.node, Replica{group, e.id, e.role}}, r.host.alive})
	}
	return inOrder(all)
}

// found is a holding and whether its node is alive.
type found struct {
	Holding
	alive bool
}

// inOrder sorts as Holders promises: live nodes first, then the newest
// incarnation of the group, then by node, so that the order is the same for the
// same knowledge.
func inOrder(all []found) []Holding {
	slices.SortFunc(all, func(a, b found) int {
		if a.alive != b.alive {
			if a.alive {
				return -1
			}
			return 1
		}
		return cmp.Or(compareIncarnations(b.Group.Incarnation, a.Group.Incarnation), bytes.Compare(a.Node[:], b.Node[:]))
	})
	holdings := make([]Holding, len(all))
	for i, f := range all {
		holdings[i] = f.Holding
	}
	return holdings
}
