package gossip

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
)

const (
	townCopies = 3
	// maxRate is what a node may send in steady state, in bytes per second.
	maxRate = 50_000
	// maxConverge is how long a change may take to be known everywhere.
	maxConverge = 5 * time.Second
)

// TestTown runs 20 whole nodes, memberlist included, with 10,000 structures of 3
// replicas each, in virtual time, and holds them to what they may take: time to
// converge after a change, bytes on the wire, and memory. It is not parallel,
// since it measures memory.
func TestTown(t *testing.T) {
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		w := newTown(t, townNodes, LAN)
		defer w.stopAll()
		for s := range townStructures {
			for i, n := range random.Perm(townNodes)[:townCopies] {
				w.host(n, s, uint8(1+min(i, 1)))
			}
		}
		townFromNothing(t, w)
		townSteady(t, w, random)
		townOneChange(t, w, random)
		townNodeDies(t, w, random)
		townRestarts(t, w)
		townPartition(t, w, random)

		// What is known at the end is what is true.
		for range 200 {
			s := random.IntN(townStructures)
			for _, g := range w.nodes {
				if got := holdersOf(g, s); !slices.Equal(got, w.hosts(s)) {
					t.Fatalf("node %s: structure %d is held by %v, want %v", g.name, s, got, w.hosts(s))
				}
			}
		}
		var after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&after)
		each := (after.HeapAlloc - min(before.HeapAlloc, after.HeapAlloc)) / townNodes
		t.Logf("memory: %d KiB per node", each>>10)
		if each > 16<<20 {
			t.Errorf("%d KiB of memory per node", each>>10)
		}
	})
}

// hosts lists the running nodes that host a structure.
func (w *town) hosts(s int) (nodes []id.Node) {
	for n, list := range w.lists {
		if _, here := list[s]; here && w.nodes[n] != nil {
			nodes = append(nodes, testNode(n))
		}
	}
	return nodes
}

func holdersOf(g *Gossip, s int) (nodes []id.Node) {
	for _, h := range g.Holders(testStructure(s)) {
		if n, ok := g.Node(h.Node); ok && n.Alive {
			nodes = append(nodes, h.Node)
		}
	}
	return nodes
}

// All nodes start at once, with nothing but what they host.
func townFromNothing(t *testing.T, w *town) {
	t.Helper()
	for n := range w.nodes {
		w.start(n)
	}
	took := w.until(time.Minute, "everyone knows everything", func() bool { return w.agree(everyone) })
	all, most := w.sent()
	t.Logf("from nothing: %v, %d KiB sent per node, %d KiB by the busiest", took, all/townNodes>>10, most>>10)
}

func townSteady(t *testing.T, w *town, random *rand.Rand) {
	t.Helper()
	mean, worst := w.perSecond(func() { time.Sleep(2 * time.Minute) })
	t.Logf("steady, nothing changes: %.0f B/s per node, %.0f by the busiest", mean, worst)
	if worst > maxRate/10 {
		t.Errorf("a node sends %.0f B/s while nothing changes", worst)
	}
	// Leaders change, all the time: ten a second.
	mean, worst = w.perSecond(func() {
		for range 300 {
			n := random.IntN(townNodes)
			for s, r := range w.lists[n] {
				w.host(n, s, 3-r.Role)
				break
			}
			w.publish(n)
			time.Sleep(100 * time.Millisecond)
		}
	})
	t.Logf("steady, ten changes a second: %.0f B/s per node, %.0f by the busiest", mean, worst)
	if worst > maxRate {
		t.Errorf("a node sends %.0f B/s", worst)
	}
	took := w.until(maxConverge, "everyone knows the last of these changes", func() bool { return w.agree(everyone) })
	t.Logf("after these changes: %v", took)
}

// One replica moves from one node to another.
func townOneChange(t *testing.T, w *town, random *rand.Rand) {
	t.Helper()
	var worst time.Duration
	for range 20 {
		s := random.IntN(townStructures)
		from, to := -1, -1
		for _, n := range random.Perm(townNodes) {
			if _, here := w.lists[n][s]; here {
				from = n
			} else {
				to = n
			}
		}
		w.host(from, s, 0)
		w.host(to, s, 1)
		w.publish(from)
		w.publish(to)
		worst = max(worst, w.until(maxConverge, "everyone knows of the move", func() bool {
			for _, g := range w.nodes {
				if !slices.Equal(holdersOf(g, s), w.hosts(s)) {
					return false
				}
			}
			return true
		}))
		time.Sleep(time.Second)
	}
	t.Logf("one replica moves: known everywhere within %v, at worst of 20", worst)
}

// A node dies for good; the others take over its 1,500 replicas at once.
func townNodeDies(t *testing.T, w *town, random *rand.Rand) {
	t.Helper()
	w.stop(7)
	gone := w.lists[7]
	w.lists[7] = make(map[int]Replica)
	took := w.until(time.Minute, "everyone knows that the node is dead", func() bool { return w.agree(everyone) })
	t.Logf("a node dies: known everywhere within %v", took)
	for s := range gone {
		for _, n := range random.Perm(townNodes) {
			if _, here := w.lists[n][s]; !here && n != 7 {
				w.host(n, s, 2)
				break
			}
		}
	}
	mean, _ := w.perSecond(func() {
		for n, g := range w.nodes {
			if g != nil {
				w.publish(n)
			}
		}
		took = w.until(maxConverge, "everyone knows who has taken over", func() bool { return w.agree(everyone) })
	})
	t.Logf("%d replicas move at once: known everywhere within %v, %.0f KiB sent per node", len(gone), took, mean*took.Seconds()/1024)
	w.start(7)
	w.until(time.Minute, "the node is back, with nothing", func() bool { return w.agree(everyone) })
}

// A third of the nodes restart at once.
func townRestarts(t *testing.T, w *town) {
	t.Helper()
	for n := 0; n < townNodes; n += 3 {
		w.stop(n)
	}
	time.Sleep(3 * time.Second)
	for n := 0; n < townNodes; n += 3 {
		w.start(n)
	}
	took := w.until(time.Minute, "everyone knows everything after the restarts", func() bool { return w.agree(everyone) })
	t.Logf("seven nodes restart: everything known everywhere %v later", took)
}

// Half of the nodes are cut off for twelve minutes. memberlist forgets the
// other half, and so does the directory; both halves go on.
func townPartition(t *testing.T, w *town, random *rand.Rand) {
	t.Helper()
	sides := make(map[string]int)
	left := func(n int) bool { return n < townNodes/2 }
	right := func(n int) bool { return !left(n) }
	for n := range townNodes {
		if right(n) {
			sides[wireAddress(n)] = 1
		}
	}
	w.wire.cut(sides)
	time.Sleep(10 * time.Minute)
	for range 100 {
		n, s := random.IntN(townNodes), random.IntN(townStructures)
		if _, here := w.lists[n][s]; here {
			w.host(n, s, 0)
		} else {
			w.host(n, s, 2)
		}
		w.publish(n)
		time.Sleep(time.Second)
	}
	took := w.until(maxConverge, "each side agrees", func() bool { return w.agree(left) && w.agree(right) })
	w.wire.cut(nil)
	mean, _ := w.perSecond(func() {
		took = w.until(2*time.Minute, "everyone knows everything after the partition", func() bool { return w.agree(everyone) })
	})
	t.Logf("a partition of 12 minutes: everything known everywhere %v after it healed, %.0f KiB sent per node", took, mean*took.Seconds()/1024)
}

// A node that misses every packet of a broadcast is reminded of it: it does not
// have to wait for the next push/pull, half a minute later.
func TestMissedBroadcast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 8, LAN)
		defer w.stopAll()
		for n := range w.nodes {
			w.host(n, n, 1)
			w.start(n)
		}
		w.until(time.Minute, "everyone knows everything", func() bool { return w.agree(everyone) })
		var worst time.Duration
		missed := 0
		for i := range 10 {
			time.Sleep(2 * time.Minute) // longer than it is reminded of
			reminders := w.nodes[0].Stats().Reminders
			time.Sleep(10 * time.Second)
			if w.nodes[0].Stats().Reminders != reminders {
				t.Fatal("there are reminders while nothing changes")
			}
			w.wire.deafen(wireAddress(3))
			w.host(0, 100+i, 1)
			w.publish(0)
			time.Sleep(2 * time.Second)
			w.wire.deafen("")
			if len(w.nodes[3].Holders(testStructure(100+i))) == 0 { // or a push/pull came at that very time
				missed++
			}
			worst = max(worst, w.until(10*time.Second, "the one that missed it knows it, too", func() bool { return w.agree(everyone) }))
		}
		t.Logf("missed %d times; known %v after the network was whole again, at worst", missed, worst)
		if missed < 3 {
			t.Errorf("only %d broadcasts were missed: the test shows nothing", missed)
		}
	})
}

// Nodes with the slower time-outs of a WAN hear of a change in time, too: here
// some hundred moves, so that the ones are among them that the broadcasts miss.
func TestTownWAN(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, townNodes, WAN)
		defer w.stopAll()
		for n := range w.nodes {
			w.host(n, n, 1)
			w.start(n)
		}
		took := w.until(time.Minute, "everyone knows everything", func() bool { return w.agree(everyone) })
		t.Logf("from nothing: %v", took)
		var worst, all time.Duration
		late := 0
		for i := range wanMoves {
			from, to, s := i%townNodes, (i+1)%townNodes, i%townNodes
			w.host(from, s, 0)
			w.host(to, s, 1)
			w.publish(from)
			w.publish(to)
			took := w.until(3*maxConverge, "everyone knows of the move", func() bool { return w.agree(everyone) })
			if took > maxConverge {
				late++
			}
			worst, all = max(worst, took), all+took
			w.host(to, s, 0)
			w.host(from, s, 1)
			w.publish(from)
			w.publish(to)
			w.until(3*maxConverge, "everyone knows of the way back", func() bool { return w.agree(everyone) })
		}
		t.Logf("%d moves: known everywhere within %v on average, %v at worst", wanMoves, all/wanMoves, worst)
		if late > 1 { // it is a matter of chance who hears what when
			t.Errorf("%d of %d moves took longer than %v", late, wanMoves, maxConverge)
		}
	})
}

// A partition of hours is far longer than memberlist remembers the dead
// (GossipToTheDeadTime), and longer than the directory keeps their lists. Both
// sides find each other again by themselves, also those that were restarted in
// between with nothing but the addresses that they remember.
func TestPartitionOfHours(t *testing.T) {
	t.Parallel()
	for profile, limit := range map[Profile]time.Duration{LAN: time.Minute, WAN: 2 * time.Minute} {
		t.Run(profile.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newTown(t, 5, profile)
				defer w.stopAll()
				for n := range w.nodes {
					w.host(n, n, 1)
					w.start(n)
				}
				w.until(limit, "a cluster of five", func() bool { return w.agree(everyone) })
				left := func(n int) bool { return n < 3 }
				right := func(n int) bool { return n >= 3 }
				w.wire.cut(map[string]int{wireAddress(3): 1, wireAddress(4): 1})
				for hour := range partitionHours {
					time.Sleep(time.Hour)
					w.host(0, 100+hour, 1)
					w.publish(0)
					w.host(4, 200+hour, 1)
					w.publish(4)
				}
				w.until(time.Minute, "two clusters that agree among themselves", func() bool { return w.agree(left) && w.agree(right) })
				for n, g := range w.nodes {
					if known := len(g.Nodes()); left(n) && known != 3 || right(n) && known != 2 {
						t.Errorf("node %d still knows %d nodes", n, known)
					}
				}
				w.stop(1)
				w.stop(4)
				time.Sleep(time.Minute)
				w.start(1)
				w.start(4)
				w.until(limit, "the restarted ones are back on their sides", func() bool { return w.agree(left) && w.agree(right) })
				w.wire.cut(nil)
				took := w.until(limit, "one cluster again", func() bool { return w.agree(everyone) })
				t.Logf("after %d hours: one cluster again within %v", partitionHours, took)
			})
		})
	}
}
