package gossip

import (
	"slices"
	"testing"

	"github.com/copycat-replication/copycat/id"
	"pgregory.net/rapid"
)

// TestDirectoriesAgree is the property: whatever is published, lost, duplicated,
// reordered and restarted, after anti-entropy everyone says what the owners say.
func TestDirectoriesAgree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, rapid.IntRange(2, 5).Draw(t, "nodes"))
		t.Repeat(map[string]func(*rapid.T){
			"publish":     w.publish,
			"deliver":     w.deliver,
			"antientropy": w.antiEntropy,
			"restart":     w.restart,
			"die":         w.die,
			"expire":      w.expire,
			"": func(t *rapid.T) {
				for _, d := range w.directories {
					checkIndex(t, d)
				}
			},
		})
		w.settle(t)
	})
}

// world is some directories and what is on its way between them.
type world struct {
	directories []*directory
	now         int64
	air         []update // broadcasts: delivered to anyone, in any order, any number of times
}

func newWorld(t *rapid.T, nodes int) *world {
	w := &world{now: 1}
	for n := range nodes {
		w.directories = append(w.directories, newDirectory(testNode(n), 1, defaultLimits))
	}
	for n := range w.directories {
		w.meet(t, n)
	}
	return w
}

// meet makes everyone know n and n everyone, as live.
func (w *world) meet(t *rapid.T, n int) {
	for i, d := range w.directories {
		if i == n {
			continue
		}
		other := w.directories[n]
		if err := d.setAlive(other.self, other.own.incarnation, w.now); err != nil {
			t.Fatalf("%v", err)
		}
		if err := other.setAlive(d.self, d.own.incarnation, w.now); err != nil {
			t.Fatalf("%v", err)
		}
	}
}

func (w *world) any(t *rapid.T, what string) int {
	return rapid.IntRange(0, len(w.directories)-1).Draw(t, what)
}

func (w *world) publish(t *rapid.T) {
	w.now++
	d := w.directories[w.any(t, "publisher")]
	var replicas []Replica
	for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, 5), 0, 5, rapid.ID).Draw(t, "groups") {
		replicas = append(replicas, Replica{testGroup(n), id.Replica(rapid.IntRange(1, 3).Draw(t, "id")), uint8(n % 3)})
	}
	from, to, whole, err := d.publish(replicas)
	if err != nil {
		t.Fatalf("%v", err)
	}
	slices.SortFunc(replicas, func(a, b Replica) int { return compareGroups(a.Group, b.Group) })
	if got := hostedBy(d, d.self); !slices.Equal(got, replicas) {
		t.Fatalf("published %v, hosts %v", replicas, got)
	}
	if to == from && !whole {
		return
	}
	if rapid.IntRange(0, 9).Draw(t, "generation") == 0 {
		// As when too many removals have piled up.
		wish := hostedBy(d, d.self)
		d.restartOwn()
		if from, to, _, err = d.publish(wish); err != nil {
			t.Fatalf("%v", err)
		}
		whole = true
	}
	w.air = append(w.air, d.announce(from, to, whole)...)
	// One change per packet, too: more disorder.
	for at := from; !whole && at < to; {
		u, _ := d.own.current.collect(d.self, at, 1)
		w.air = append(w.air, u)
		at = u.to
	}
	if excess := len(w.air) - 60; excess > 0 {
		w.air = w.air[excess:]
	}
}

func (w *world) deliver(t *rapid.T) {
	if len(w.air) == 0 {
		t.Skip("nothing in the air")
	}
	w.now++
	to := w.directories[w.any(t, "receiver")]
	for range rapid.IntRange(1, 8).Draw(t, "packets") {
		u := w.air[rapid.IntRange(0, len(w.air)-1).Draw(t, "packet")]
		if _, err := to.apply(&u, w.now); err != nil {
			t.Fatalf("%v", err)
		}
	}
}

// antiEntropy is one exchange that may break off after some pages.
func (w *world) antiEntropy(t *rapid.T) {
	w.now++
	from, to := w.directories[w.any(t, "from")], w.directories[w.any(t, "to")]
	if from == to {
		t.Skip("the same")
	}
	to.compare(from.self, from.vector(), w.now)
	for _, request := range to.wants(w.now, 0, 0, 8) {
		if request.from != from.self {
			continue
		}
		updates, _ := from.pages(request.since, rapid.IntRange(1, 400).Draw(t, "page"), rapid.IntRange(1, 800).Draw(t, "budget"))
		for i := range updates {
			if rapid.IntRange(0, 4).Draw(t, "lost") == 0 {
				continue
			}
			if _, err := to.apply(&updates[i], w.now); err != nil {
				t.Fatalf("%v", err)
			}
		}
	}
}

func (w *world) restart(t *rapid.T) {
	w.now++
	n := w.any(t, "restarted")
	old := w.directories[n]
	w.directories[n] = newDirectory(old.self, old.own.incarnation+1, defaultLimits)
	w.meet(t, n)
}

// die makes one node believe that another one is dead.
func (w *world) die(t *rapid.T) {
	w.now++
	w.directories[w.any(t, "observer")].setDead(w.directories[w.any(t, "dead")].self, w.now)
}

func (w *world) expire(t *rapid.T) {
	w.now++
	w.directories[w.any(t, "observer")].expire(w.now, rapid.Int64Range(1, 20).Draw(t, "keep"))
}

// settle lets everyone live, publish, and ask until nobody wants anything.
func (w *world) settle(t *rapid.T) {
	for n := range w.directories {
		w.meet(t, n)
	}
	for _, d := range w.directories {
		if _, _, _, err := d.publish(hostedBy(d, d.self)); err != nil {
			t.Fatalf("%v", err)
		}
	}
	byID := make(map[id.Node]*directory)
	for _, d := range w.directories {
		byID[d.self] = d
	}
	for round := 0; ; round++ {
		if round > 100 {
			t.Fatalf("anti-entropy does not end")
		}
		asked := 0
		for i, d := range w.directories {
			w.now += 1000
			next := w.directories[(i+1)%len(w.directories)]
			d.compare(next.self, next.vector(), w.now)
			for _, request := range d.wants(w.now, 1, 1, 8) {
				asked++
				updates, _ := byID[request.from].pages(request.since, 200, 1000)
				for j := range updates {
					if _, err := d.apply(&updates[j], w.now); err != nil {
						t.Fatalf("%v", err)
					}
				}
				d.answeredBy(request.from, updates)
			}
		}
		if asked == 0 && round > len(w.directories) {
			break
		}
	}
	for _, observer := range w.directories {
		checkIndex(t, observer)
		for _, owner := range w.directories {
			if got, want := hostedBy(observer, owner.self), hostedBy(owner, owner.self); !slices.Equal(got, want) {
				t.Fatalf("node %s says of %s: %v, want %v", observer.self, owner.self, got, want)
			}
			if v, own := observer.nodes[owner.self].version(), owner.own.version(); v != own {
				t.Fatalf("node %s has %+v of %+v", observer.self, v, own)
			}
		}
	}
}
