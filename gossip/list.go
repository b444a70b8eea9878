package gossip

import (
	"cmp"
	"slices"

	"github.com/copycat-replication/copycat/id"
)

// epoch tells the lists of one node apart. A greater epoch replaces a lesser
// one as a whole: the process restarted (incarnation), or the node started its
// list again to be rid of the marks of removed replicas (generation).
type epoch struct {
	incarnation uint64
	generation  uint32
}

func (e epoch) compare(o epoch) int {
	return cmp.Or(cmp.Compare(e.incarnation, o.incarnation), cmp.Compare(e.generation, o.generation))
}

// version names a state of one node's list.
type version struct {
	node id.Node
	epoch
	sequence uint64
}

// entry is what a list says of one group. A removed entry stays for as long as
// the epoch does, so that an older delta that arrives late does not revive it.
type entry struct {
	id       id.Replica
	role     uint8
	removed  bool
	sequence uint64 // of the newest change known
}

// change is an entry on its way.
type change struct {
	group id.Group
	entry
}

// update is what a node's list has in the sequences (from, to]: for every group
// whose newest change falls into the range, that change, by ascending sequence.
// A group that changed again after to is not in it.
type update struct {
	node id.Node
	epoch
	from, to uint64
	head     uint64 // newest sequence the sender knows of
	changes  []change
}

// list is one epoch of one node's replicas.
type list struct {
	epoch
	entries map[id.Group]entry
	live    int      // entries that are not removed
	cover   coverage // which sequences entries reflects
	head    uint64   // newest sequence heard of
}

func newList(e epoch) *list { return &list{epoch: e, entries: make(map[id.Group]entry)} }

func (l *list) complete() bool { return l.cover.prefix >= l.head }

// collect returns what the list has beyond since, at most about limit bytes of
// it on the wire and at least one change, and whether that was all. It serves
// nothing beyond the first hole, so that whoever applies the answers of several
// holders in turn ends with what the owner has.
func (l *list) collect(node id.Node, since uint64, limit int) (update, bool) {
	u := update{node: node, epoch: l.epoch, from: since, to: max(since, l.cover.prefix), head: max(l.head, l.cover.prefix)}
	for group, e := range l.entries {
		if e.sequence > u.from && e.sequence <= u.to {
			u.changes = append(u.changes, change{group, e})
		}
	}
	slices.SortFunc(u.changes, func(a, b change) int { return cmp.Compare(a.sequence, b.sequence) })
	size := updateOverhead
	for i, c := range u.changes {
		size += c.size()
		if size > limit && i > 0 {
			u.changes = u.changes[:i:i]
			u.to = u.changes[i-1].sequence
			return u, false
		}
	}
	return u, true
}

// hosted is what a directory holds about one node.
type hosted struct {
	node id.Node
	// current is the newest epoch heard of; previous the one before it, which
	// answers for what current does not have yet, until current is complete.
	current, previous *list
	replacedAt        int64 // when previous was replaced; like all times here, in nanoseconds of a clock that is never set

	alive       bool
	lostAt      int64  // when alive became false
	incarnation uint64 // of the process, as membership tells
	restartedAt int64  // when incarnation was first seen
	movedAt     int64  // when our copy of the list last got longer; 0: never

	// asking
	answered bool    // the owner, in this incarnation, has told what it has
	teller   id.Node // who told of head, if not the owner
	asks     uint    // unanswered requests in a row
	askedAt  int64
	// holeAt is when a delta showed that others are missing, which may just be
	// late: they overtake each other. 0: what is missing will not come by itself.
	holeAt int64
}

// behind reports whether someone has more of this node's list than we do.
func (h *hosted) behind() bool {
	if h.current != nil && !h.current.complete() {
		return true
	}
	return h.alive && !h.answered
}

// version is how far our copy of the list reaches without a hole.
func (h *hosted) version() version {
	v := version{node: h.node}
	if h.current != nil {
		v.epoch, v.sequence = h.current.epoch, h.current.cover.prefix
	}
	return v
}
