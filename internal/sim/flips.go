package sim

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
)

// A bit that flips takes away data that was durable, which no other fault here
// does. So a flip is fair only where the promise still holds: where a majority
// of the voters has what it hits, and that is not a majority of those that are
// left, but of all. A run flips bits on one node, its victim, and only while
// every group that has a replica there has three voters or more. Two voters of
// three, or four of five, then have their logs whole. What the victim is told to
// keep only for itself is not hit: the newest segment of its log, where damage
// in the last batch cannot be told from a torn write, and snapshots that nobody
// else has.
//
// What must hold: nothing that was hit is served (package history sees to
// that), nothing that was durable goes back or is lost, the victim gets new
// replicas for those that it cannot prove whole, and everybody agrees in the
// end.

// flip is one bit that was flipped.
type flip struct {
	what string // "log", "cold store", "snapshot"
	name string // of the file
}

// mayFlip reports whether a flip on a node is fair.
func (s *Sim) mayFlip(n *node) bool {
	if s.victim != nil && s.victim != n {
		return false
	}
	for key, r := range s.watch.locals {
		if key.node != n.number {
			continue
		}
		if !s.spares(r.group, n) {
			return false
		}
	}
	s.victim = n
	return true
}

// spares reports whether a group has voters enough without a node: as whoever
// has applied most of its log sees them.
func (s *Sim) spares(g id.Group, victim *node) bool {
	if g.Incarnation.Birth == 0 {
		return false // a birth that is not decided: its first members are all it has
	}
	newest := s.newest(g)
	return len(newest.Voters) >= 3 && !newest.Joint
}

// newest is what the replica says of a group that has applied most of its log.
func (s *Sim) newest(g id.Group) (newest raftgroup.GroupStatus) {
	for _, n := range s.nodes {
		if !n.up {
			continue
		}
		for _, st := range n.host.Groups() {
			if st.Group == g && st.Applied > newest.Applied {
				newest = st
			}
		}
	}
	return newest
}

// flip flips a bit if that is fair, on the victim if there is one.
func (s *Sim) flip(p particulars, f func(particulars)) func() {
	if s.victim != nil {
		p.n = s.victim
	}
	if s.mayFlip(p.n) {
		f(p)
	}
	return nil
}

// flipLog flips a bit of a segment that is not the newest.
func (s *Sim) flipLog(p particulars) {
	segments := s.files(p.n, "wal", ".seg")
	if len(segments) < 2 {
		return
	}
	s.flipFile(p, "log", segments[p.rng.IntN(len(segments)-1)])
}

// flipSnapshot flips a bit of a snapshot that another node has too.
func (s *Sim) flipSnapshot(p particulars) {
	var shared []string
	for _, file := range s.snapshots(p.n) {
		for _, o := range s.nodes {
			if o != p.n && slices.ContainsFunc(s.snapshots(o), func(other string) bool { return path.Base(other) == path.Base(file) }) {
				shared = append(shared, file)
				break
			}
		}
	}
	if len(shared) > 0 {
		s.flipFile(p, "snapshot", shared[p.rng.IntN(len(shared))])
	}
}

// snapshots lists a node's complete snapshot files.
func (s *Sim) snapshots(n *node) []string {
	groups, err := n.fs.List("snapshots")
	if err != nil {
		return nil // none yet
	}
	var out []string
	for _, g := range groups {
		out = append(out, s.files(n, path.Join("snapshots", g), ".snap")...)
	}
	return out
}

func (s *Sim) files(n *node, dir, suffix string) []string {
	names, err := n.fs.List(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, name := range names {
		if strings.HasSuffix(name, suffix) {
			out = append(out, path.Join(dir, name))
		}
	}
	return out
}

// flipFile flips a bit of what a file holds, up to its last byte that is not
// zero: what follows is room that nobody has used.
func (s *Sim) flipFile(p particulars, what, name string) {
	data, err := vfs.ReadFile(p.n.fs, name, 1<<30)
	if err != nil {
		return // a fault hit the reading
	}
	end := len(data)
	for end > 0 && data[end-1] == 0 {
		end--
	}
	if end == 0 {
		return
	}
	if err := p.n.fs.FlipBit(name, p.rng.Int64N(int64(end)), uint(p.rng.IntN(8))); err != nil {
		s.must(fmt.Errorf("flip in %s: %w", name, err))
		return
	}
	s.flipped(p.n, flip{what, name})
}

// flipCold flips a bit of a record in the cold store.
func (s *Sim) flipCold(p particulars) {
	keys := p.n.cold.Keys()
	if len(keys) == 0 {
		return
	}
	k := keys[p.rng.IntN(len(keys))]
	if p.n.cold.Flip(k, p.rng.IntN(1<<20)) {
		s.flipped(p.n, flip{"cold store", fmt.Sprintf("group %d, index %d", k.Group, k.Index)})
	}
}

func (s *Sim) flipped(n *node, f flip) {
	n.flipped = true
	s.flips[f.what]++
	if s.opt.Logger != nil {
		n.logger().Info("bit flipped", "in", f.what, "name", f.name)
	}
}

// damaged counts what a node's log finds damaged when it is opened.
func (s *Sim) damaged(n *node) {
	if d := n.log.Damages(); len(d) > 0 {
		if !n.flipped {
			s.broken("node %d finds damage where nothing was flipped: %v", n.number, d[0])
		}
		s.noticed["damages"] += len(d)
	}
	s.noticed["replicas set aside"] += len(n.log.Suspects())
}

// sorted prints a count of things in a stable order.
func sorted(counts map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, counts[k]))
	}
	return strings.Join(parts, ", ")
}
