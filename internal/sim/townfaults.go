package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
)

// free lists the nodes to which nothing happens at present.
func (t *town) free() (out []*node) {
	for _, n := range t.nodes {
		if n.up && !n.paused && !n.leaving && n.busy == 0 {
			out = append(out, n)
		}
	}
	return out
}

// there lists the nodes that are not gone for good.
func (t *town) there() (out []*node) {
	for _, n := range t.nodes {
		if !n.gone {
			out = append(out, n)
		}
	}
	return out
}

func (t *town) anyone(p particulars) []*node {
	free := t.free()
	if len(free) == 0 {
		return nil
	}
	return []*node{free[p.rng.IntN(len(free))]}
}

// fall takes nodes down: their processes, or their power.
func (t *town) fall(p particulars, nodes []*node) {
	power := p.rng.IntN(2) == 0
	for _, n := range nodes {
		late := t.between(time.Millisecond, 300*time.Millisecond)
		if power {
			n.crash(p.rng)
			late = t.between(5*time.Second, 20*time.Second)
		} else {
			n.kill()
		}
		for _, o := range t.nodes {
			if o != n && o.up {
				t.disconnectLater(o, n, late)
			}
		}
	}
}

// kill ends the process alone: the machine goes on, and its disk loses nothing.
func (n *node) kill() {
	if n.up {
		n.after = n.fs.CrashClone(vfs.KeepAll)
		n.crashed()
	}
}

// rise starts a node again.
func (t *town) rise(n *node) {
	if n.up && n.paused {
		n.resume()
		n.work()
	}
	if !n.up && !n.gone {
		t.must(n.start())
	}
}

func (t *town) fells(p particulars, nodes []*node, lasts time.Duration) bool {
	if len(nodes) == 0 {
		return false
	}
	t.fall(p, nodes)
	for _, n := range nodes {
		n.busy++
		t.last(lasts+between(p.rng, 0, time.Second), func() { n.busy--; t.rise(n) })
	}
	return true
}

// joins adds a node, in a data center that has few mostly.
func (t *town) joins(p particulars) bool {
	if len(t.there()) >= townNodes {
		return false
	}
	dc := t.centers[p.rng.IntN(len(t.centers))]
	_, err := t.arrive(dc, fmt.Sprintf("r%d", 1+p.rng.IntN(2)))
	t.must(err)
	return true
}

// leaves has a node leave in order.
func (t *town) leaves(p particulars) bool {
	who := t.anyone(p)
	if len(t.there()) <= leastTown || who == nil {
		return false
	}
	n := who[0]
	n.leaving, n.busy = true, n.busy+1
	for _, i := range slices.Clone(n.programs) {
		t.moveOut(i, n)
		t.moveIn(i)
	}
	t.changed()
	t.spread(n)
	began := t.now
	tasks{n}.Go(func() {
		life := n.life
		ctx, cancel := tasks{n}.Within(context.Background(), leaveBound)
		defer cancel()
		// As Leave does: what was sent is waited for.
		for range 50 {
			if len(n.subs) == 0 {
				break
			}
			pause, end := tasks{n}.Within(ctx, 100*time.Millisecond)
			_ = tasks{n}.Await(pause, nil)
			end()
		}
		err := n.host.Vacate(ctx)
		if n.life != life || !n.up {
			return
		}
		n.busy--
		if err == nil {
			t.left = t.now
			t.life.Slowest = max(t.life.Slowest, t.now.Sub(began))
			t.checkVacant(n)
			n.kill()
			t.bury(n)
			t.changed()
			return
		}
		if !t.over {
			t.must(fmt.Errorf("%w: node %d could not leave within %s: %w", errInvariant, n.number, leaveBound, err))
		}
		n.leaving = false
		t.changed()
		t.spread(n)
	})
	return true
}

// leaveBound is how long a node may take to leave.
const leaveBound = 30 * time.Minute

// bury notes that a node is gone for good.
func (t *town) bury(n *node) {
	n.gone = true
	for _, i := range slices.Clone(n.programs) {
		t.moveOut(i, n)
		t.moveIn(i)
	}
}

// dies takes a node for good, where every group can live with that.
func (t *town) dies(p particulars) bool {
	who := t.anyone(p)
	if len(t.there()) <= leastTown || !t.canLose(who) {
		return false
	}
	t.fall(p, who)
	t.bury(who[0])
	return true
}

// wiped takes a node's directory: another node is there instead, soon or late.
func (t *town) wiped(p particulars) bool {
	who := t.anyone(p)
	if !t.canLose(who) {
		return false
	}
	t.empty(p, who, between(p.rng, time.Second, 10*time.Minute))
	return true
}

// empty takes the directories of nodes; new nodes come in their place.
func (t *town) empty(p particulars, nodes []*node, lasts time.Duration) {
	t.fall(p, nodes)
	for _, n := range nodes {
		t.bury(n)
		t.last(lasts, func() {
			_, err := t.arrive(n.dc, n.rack)
			t.must(err)
		})
	}
}

func (t *town) pauses(p particulars) bool {
	who := t.anyone(p)
	if who == nil {
		return false
	}
	n, life := who[0], who[0].life
	n.pause()
	n.busy++
	t.changed()
	t.last(t.long(p), func() {
		n.busy--
		if n.up && n.life == life {
			t.rise(n)
			t.changed()
		}
	})
	return true
}

// long draws how long something lasts: shorter or longer than it takes until
// replicas are replaced.
func (t *town) long(p particulars) time.Duration {
	switch p.rng.IntN(3) {
	case 0:
		return between(p.rng, time.Second, 30*time.Second)
	case 1:
		return between(p.rng, 30*time.Second, 2*time.Minute)
	}
	return between(p.rng, 2*time.Minute, 15*time.Minute)
}

// sickens fails a sync: the process lives, and its log takes no more writes.
func (t *town) sickens(p particulars) bool {
	who := t.anyone(p)
	if who == nil {
		return false
	}
	n := who[0]
	n.busy++
	t.failSync(n)
	t.changed()
	t.last(t.long(p), func() {
		n.fs.SetFault(nil)
		n.kill()
		n.fs.SetFault(nil)
		n.busy--
		t.rise(n)
	})
	return true
}

func (t *town) slows(p particulars) bool {
	who := t.anyone(p)
	if who == nil {
		return false
	}
	n := who[0]
	n.diskDelay = between(p.rng, 50*time.Millisecond, time.Second)
	t.rough++
	t.last(between(p.rng, 10*time.Second, 2*time.Minute), func() {
		n.diskDelay = time.Millisecond
		t.rough--
		t.steady = t.now
	})
	return true
}

func (t *town) cutOneWay(p particulars) bool {
	a, b := t.anyone(p), t.anyone(p)
	if a == nil || a[0] == b[0] {
		return false
	}
	t.last(t.long(p), t.sever([2]*node{a[0], b[0]}))
	return true
}

func (t *town) cutBothWays(p particulars) bool {
	a, b := t.anyone(p), t.anyone(p)
	if a == nil || a[0] == b[0] {
		return false
	}
	t.last(t.long(p), t.sever(both(a, b)...))
	return true
}

// both lists the links between two sides.
func both(a, b []*node) (out [][2]*node) {
	for _, x := range a {
		for _, y := range b {
			out = append(out, [2]*node{x, y}, [2]*node{y, x})
		}
	}
	return out
}

// others lists the nodes that are there and not among some.
func (t *town) others(nodes []*node) []*node {
	return slices.DeleteFunc(t.there(), func(n *node) bool { return slices.Contains(nodes, n) })
}

func (t *town) isolates(p particulars) bool {
	who := t.anyone(p)
	if who == nil {
		return false
	}
	t.last(t.long(p), t.sever(both(who, t.others(who))...))
	return true
}

func (t *town) isolatesOneWay(p particulars) bool {
	who := t.anyone(p)
	if who == nil {
		return false
	}
	var links [][2]*node
	out := p.rng.IntN(2) == 0
	for _, o := range t.others(who) {
		if out {
			links = append(links, [2]*node{who[0], o})
		} else {
			links = append(links, [2]*node{o, who[0]})
		}
	}
	t.last(t.long(p), t.sever(links...))
	return true
}

// in lists the nodes of a data center, of those that are there.
func (t *town) in(dc string) []*node {
	return slices.DeleteFunc(t.there(), func(n *node) bool { return n.dc != dc })
}

func (t *town) cutsCenter(p particulars) bool {
	here := t.in(t.centers[p.rng.IntN(len(t.centers))])
	t.last(t.long(p), t.sever(both(here, t.others(here))...))
	return len(here) > 0
}

func (t *town) parts(p particulars) bool {
	var here []*node
	for _, n := range t.there() {
		if p.rng.IntN(2) == 0 {
			here = append(here, n)
		}
	}
	t.last(t.long(p), t.sever(both(here, t.others(here))...))
	return len(here) > 0
}

// freeIn lists the nodes of a data center to which nothing else happens.
func (t *town) freeIn(dc string) []*node {
	return slices.DeleteFunc(t.free(), func(n *node) bool { return n.dc != dc })
}

func (t *town) losesCenter(p particulars) bool {
	return t.fells(p, t.freeIn(t.centers[p.rng.IntN(len(t.centers))]), t.long(p))
}

func (t *town) losesCenterForGood(p particulars) bool {
	here := t.freeIn(t.centers[p.rng.IntN(len(t.centers))])
	if !t.canLose(here) {
		return false
	}
	t.empty(p, here, t.long(p))
	return true
}

// losesMost takes away more than any majority rule permits, for a while.
func (t *town) losesMost(p particulars) bool {
	free := t.free()
	p.rng.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	return t.fells(p, free[:len(free)*(50+p.rng.IntN(51))/100], t.long(p))
}

// rolls restarts every node, one after the other.
func (t *town) rolls(p particulars) bool {
	at := time.Duration(0)
	for _, n := range t.free() {
		n.busy++
		down := between(p.rng, time.Second, 10*time.Second)
		done := false
		t.after(at, func() {
			if !done && n.up {
				t.fall(p, []*node{n})
			}
		})
		t.last(at+down, func() { done = true; n.busy--; t.rise(n) })
		at += down + between(p.rng, 5*time.Second, 20*time.Second)
	}
	return at > 0
}

func (t *town) roughens(p particulars) bool {
	t.net.loss, t.net.double = 0.2*p.rng.Float64(), 0.1
	t.net.slowest = between(p.rng, time.Millisecond, 200*time.Millisecond)
	t.rough++
	t.last(between(p.rng, 5*time.Second, time.Minute), func() {
		if t.rough--; t.rough == 0 {
			t.net.loss, t.net.double, t.net.slowest = 0, 0, townJitter
		}
		t.steady = t.now
	})
	return true
}

// doubts has gossip take a node for dead that runs.
func (t *town) doubts(p particulars) bool {
	who := t.anyone(p)
	if who == nil {
		return false
	}
	n := who[0]
	n.doubted++
	t.changed()
	t.last(between(p.rng, 10*time.Second, 5*time.Minute), func() { n.doubted--; t.changed() })
	return true
}

func (t *town) jumps(p particulars) bool {
	who := t.anyone(p)
	if who == nil {
		return false
	}
	n := who[0]
	n.clock = between(p.rng, -time.Hour, time.Hour)
	t.last(between(p.rng, 10*time.Second, 10*time.Minute), func() { n.clock = 0 })
	return true
}

// alters changes what some structures wish for.
func (t *town) alters(p particulars) bool {
	done := false
	for range 1 + p.rng.IntN(5) {
		st := &t.structures[p.rng.IntN(len(t.structures))]
		who := t.anyone(p)
		if who == nil || st.stage != lasting || t.watch.lives(st.id) == 0 {
			continue
		}
		wish := t.wishes()
		wish.SnapshotEntries = st.options.SnapshotEntries
		change := raftgroup.OptionsChange{Options: wish, Fields: []raftgroup.Option{
			raftgroup.OptionVoters, raftgroup.OptionLearnersPerDataCenter, raftgroup.OptionPinnedDataCenters, raftgroup.OptionPreferredDataCenter,
		}}
		st.options, done = wish, true // for the next birth; what holds is what the group's log says
		n := who[0]
		tasks{n}.Go(func() {
			ctx, cancel := tasks{n}.Within(context.Background(), joinTimeout)
			defer cancel()
			if _, err := n.host.Alter(ctx, st.id, change); err != nil && n.up {
				n.logger().Debug("options not altered", "structure", st.id.String(), "error", err)
			}
			t.steady = t.now
		})
	}
	return done
}

// deletes deletes some structures, and creates most of them anew.
func (t *town) deletes(p particulars) bool {
	for range 1 + p.rng.IntN(3) {
		t.demolish(&t.structures[p.rng.IntN(len(t.structures))], p.rng.IntN(4) > 0)
	}
	return true
}
