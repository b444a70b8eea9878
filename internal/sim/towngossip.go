package sim

import (
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// What gossip does in a town. Each node has a view of each other one, which
// follows what is so with a delay: some seconds until a death is believed, some
// until a node is found again after a partition, about one for everything else.
// Two nodes see each other if each reaches the other, over third nodes too, as
// with the indirect probes and the rumours of SWIM. Gossip errs as well: a node
// that is doubted is dead to the others while it runs.

// sight is what one node knows of another.
type sight struct {
	alive   bool
	life    uint64
	leaving bool
	list    []raftgroup.Hosted
	listed  int
}

// gossip is a node's view.
type gossip struct{ n *node }

// Nodes implements raftgroup.Directory.
func (d gossip) Nodes() []raftgroup.Node {
	out := make([]raftgroup.Node, 0, townNodes)
	for _, o := range d.n.s.nodes {
		life, leaving := o.life, o.leaving
		if o != d.n {
			v := d.n.sees[o]
			if v == nil || !v.alive {
				continue
			}
			life, leaving = v.life, v.leaving
		}
		out = append(out, raftgroup.Node{ID: o.id, Incarnation: life, DataCenter: o.dc, Rack: o.rack, Capacity: 1, Leaving: leaving})
	}
	return out
}

// Holders implements raftgroup.Directory.
func (d gossip) Holders(st id.Structure) []id.Node {
	var out []id.Node
	for _, o := range d.n.s.nodes {
		list := o.published
		if o != d.n {
			v := d.n.sees[o]
			if v == nil || !v.alive {
				continue
			}
			list = v.list
		}
		if slices.ContainsFunc(list, func(h raftgroup.Hosted) bool { return h.Group.Structure == st }) {
			out = append(out, o.id)
		}
	}
	return out
}

// Publish implements raftgroup.Directory.
func (d gossip) Publish(hosted []raftgroup.Hosted) {
	n, t := d.n, d.n.s.town
	n.lists++
	n.published, n.listed = hosted, n.lists
	t.spread(n)
}

// spread has those who see a node hear what it says of itself.
func (t *town) spread(n *node) {
	for _, o := range t.nodes {
		if v := o.sees[n]; o.up && o != n && v != nil && v.alive {
			life, of := o.life, n.life
			t.after(t.between(0, time.Second), func() {
				if o.up && o.life == life && n.life == of && v == o.sees[n] && t.meet(o, n) {
					t.hear(o, n, v)
				}
			})
		}
	}
}

// hear takes down what a node says of itself.
func (t *town) hear(o, n *node, v *sight) {
	if !v.alive || v.leaving != n.leaving || v.life != n.life {
		t.hurryUp(o, liveliest)
	}
	*v = sight{alive: true, life: n.life, leaving: n.leaving, list: n.published, listed: n.listed}
}

// linked reports whether a message from a reaches b.
func (t *town) linked(a, b *node) bool { return t.cuts[[2]int{a.number, b.number}] == 0 }

// gossips reports whether a node takes part, as far as the others can tell.
func (n *node) gossips() bool { return n.up && !n.paused && n.doubted == 0 }

// meet reports whether two nodes reach each other, over others too.
func (t *town) meet(a, b *node) bool { return t.reaches(a, b) && t.reaches(b, a) }

func (t *town) reaches(a, b *node) bool {
	if !a.gossips() || !b.gossips() {
		return false
	}
	seen, next := map[*node]bool{a: true}, []*node{a}
	for len(next) > 0 {
		from := next[0]
		next = next[1:]
		if from == b || t.linked(from, b) {
			return true
		}
		for _, o := range t.nodes {
			if o.gossips() && !seen[o] && t.linked(from, o) {
				seen[o] = true
				next = append(next, o)
			}
		}
	}
	return false
}

// rewire has the views follow what has changed.
func (t *town) rewire() {
	for _, a := range t.nodes {
		if !a.up {
			continue
		}
		for _, b := range t.nodes {
			if a == b || b.life == 0 {
				continue
			}
			v := a.sees[b]
			known := v != nil && v.alive
			switch meets := t.meet(a, b); {
			case meets && (!known || v.life != b.life):
				late := t.between(500*time.Millisecond, 20*time.Second)
				if t.now.Sub(a.since) < liveliest || t.now.Sub(b.since) < liveliest {
					late = t.between(100*time.Millisecond, 2*time.Second) // whoever starts calls the others
				}
				t.seeLater(a, b, late)
			case !meets && known:
				t.seeLater(a, b, t.between(4*time.Second, 12*time.Second))
			}
		}
	}
}

// seeLater has a node's view of another one be what is so by then.
func (t *town) seeLater(a, b *node, late time.Duration) {
	life := a.life
	t.after(late, func() {
		if !a.up || a.life != life {
			return
		}
		v := a.sees[b]
		switch meets := t.meet(a, b); {
		case meets:
			if v == nil {
				v = &sight{}
				a.sees[b] = v
			}
			t.hear(a, b, v)
		case v != nil && v.alive:
			v.alive = false
			t.hurryUp(a, liveliest)
		}
	})
}

// connectLater has two nodes hear that they are connected, if they are by then.
func (t *town) connectLater(a, b *node) {
	t.after(t.between(0, time.Second), func() {
		if a.up && b.up && !a.paused && !b.paused && t.linked(a, b) && t.linked(b, a) {
			a.host.PeerUp(b.id, b.life)
			b.host.PeerUp(a.id, a.life)
			a.work()
			b.work()
		}
	})
}

// disconnectLater has a node hear that its connection with another one broke,
// if it is not connected by then.
func (t *town) disconnectLater(a, b *node, late time.Duration) {
	life, of := a.life, b.life
	t.after(late, func() {
		gone := !b.up || b.life != of || !t.linked(a, b) || !t.linked(b, a)
		if a.up && a.life == life && !a.paused && gone {
			a.host.PeerDown(b.id)
			a.work()
		}
	})
}

// sever cuts links, one way each, and returns what mends them.
func (t *town) sever(links ...[2]*node) (mend func()) {
	for _, l := range links {
		k := [2]int{l[0].number, l[1].number}
		t.cuts[k]++
		t.net.cut[k] = true
		t.disconnectLater(l[0], l[1], t.between(5*time.Second, 20*time.Second))
		t.disconnectLater(l[1], l[0], t.between(5*time.Second, 20*time.Second))
	}
	t.changed()
	return func() {
		for _, l := range links {
			k := [2]int{l[0].number, l[1].number}
			if t.cuts[k]--; t.cuts[k] == 0 {
				delete(t.cuts, k)
				delete(t.net.cut, k)
				t.connectLater(l[0], l[1])
			}
		}
		t.changed()
	}
}
