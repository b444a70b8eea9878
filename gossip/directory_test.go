package gossip

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/copycat-replication/copycat/id"
)

func testNode(n int) id.Node {
	var node id.Node
	binary.BigEndian.PutUint32(node[12:], uint32(n+1))
	return node
}

func testStructure(n int) id.Structure {
	var s id.Structure
	binary.BigEndian.PutUint32(s[12:], uint32(n+1))
	return s
}

func testGroup(n int) id.Group {
	return id.Group{Structure: testStructure(n), Incarnation: id.Incarnation{Birth: uint64(n) + 1}}
}

func testReplicas(groups ...int) []Replica {
	replicas := make([]Replica, len(groups))
	for i, n := range groups {
		replicas[i] = Replica{Group: testGroup(n), ID: id.Replica(n + 1), Role: 1}
	}
	return replicas
}

// hostedBy returns what d says that node hosts, sorted.
func hostedBy(d *directory, node id.Node) []Replica {
	var all []Replica
	for s := range d.index {
		for _, h := range d.holders(s) {
			if h.Node == node {
				all = append(all, h.Replica)
			}
		}
	}
	slices.SortFunc(all, func(a, b Replica) int { return compareGroups(a.Group, b.Group) })
	return all
}

// pull brings to everything that from has for it, in pages of pageBytes.
func pull(t interface{ Fatalf(string, ...any) }, to, from *directory, now int64, pageBytes int) (bytes int) {
	vector := from.vector()
	to.compare(from.self, vector, now)
	var since []version
	for _, v := range vector {
		if h := to.nodes[v.node]; h != nil && h != to.own {
			since = append(since, h.version())
		}
	}
	for {
		updates, more := from.pages(since, pageBytes, pageBytes)
		for i := range updates {
			bytes += updates[i].size()
			if _, err := to.apply(&updates[i], now); err != nil {
				t.Fatalf("apply: %v", err)
			}
		}
		to.answeredBy(from.self, updates)
		if !more {
			return bytes
		}
		since = advanceSince(since, updates)
	}
}

func checkIndex(t interface{ Fatalf(string, ...any) }, d *directory) {
	refs, live := 0, 0
	for _, h := range d.nodes {
		for _, l := range []*list{h.current, h.previous} {
			if l == nil {
				continue
			}
			n := 0
			for _, e := range l.entries {
				if !e.removed {
					n++
				}
			}
			if n != l.live {
				t.Fatalf("list of %s counts %d live entries, has %d", h.node, l.live, n)
			}
			live += n
		}
	}
	for s, list := range d.index {
		if len(list) == 0 {
			t.Fatalf("empty index entry of %s", s)
		}
		refs += len(list)
		rebuilt := 0
		for _, r := range list {
			if r.incarnation.Recovery > 0 {
				rebuilt++
			}
		}
		if d.rebuilt[s] != rebuilt {
			t.Fatalf("structure %s has %d rebuilt refs, %d are counted", s, rebuilt, d.rebuilt[s])
		}
	}
	for s := range d.rebuilt {
		if d.index[s] == nil {
			t.Fatalf("structure %s counts as rebuilt, and nobody hosts it", s)
		}
	}
	if refs != live || d.live != live {
		t.Fatalf("index has %d refs, lists %d live entries, directory counts %d", refs, live, d.live)
	}
}

func TestPublishDiffsAndDeltasArrive(t *testing.T) {
	t.Parallel()
	a, b := newDirectory(testNode(0), 1, defaultLimits), newDirectory(testNode(1), 1, defaultLimits)
	if err := b.setAlive(a.self, 1, 0); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		name    string
		publish []Replica
		changes int
	}{
		{"the first list", testReplicas(1, 2, 3), 3},
		{"the same again", testReplicas(3, 2, 1), 0},
		{"one comes, one goes", testReplicas(1, 2, 4), 2},
		{"nothing left", nil, 3},
		{"back again", testReplicas(1), 1},
	}
	for _, step := range steps {
		from, to, whole, err := a.publish(step.publish)
		if err != nil || whole || to-from != uint64(step.changes) {
			t.Fatalf("%s: (%d, %d], whole %t, error %v, want %d changes", step.name, from, to, whole, err, step.changes)
		}
		for _, u := range a.announce(from, to, whole) {
			out, err := b.apply(&u, 0)
			if err != nil || !out.fresh || !out.changed {
				t.Fatalf("%s: applied as %+v, %v", step.name, out, err)
			}
			if out, _ = b.apply(&u, 0); out.fresh || out.changed {
				t.Fatalf("%s: applied twice: %+v", step.name, out)
			}
		}
		if got, want := hostedBy(b, a.self), hostedBy(a, a.self); !slices.Equal(got, want) {
			t.Fatalf("%s: b says %v, a says %v", step.name, got, want)
		}
		checkIndex(t, b)
	}
}

func TestFirstEmptyPublishReplacesTheFormerLife(t *testing.T) {
	t.Parallel()
	old, b := newDirectory(testNode(0), 1, defaultLimits), newDirectory(testNode(1), 1, defaultLimits)
	if err := b.setAlive(old.self, 1, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := old.publish(testReplicas(1, 2)); err != nil {
		t.Fatal(err)
	}
	pull(t, b, old, 0, maxPageBytes)
	young := newDirectory(testNode(0), 2, defaultLimits)
	from, to, whole, err := young.publish(nil)
	if err != nil || to == from {
		t.Fatalf("an empty first list makes no version: (%d, %d], %v", from, to, err)
	}
	for _, u := range young.announce(from, to, whole) {
		if out, err := b.apply(&u, 0); err != nil || !out.changed {
			t.Fatalf("applied as %+v, %v", out, err)
		}
	}
	if got := hostedBy(b, old.self); len(got) != 0 {
		t.Fatalf("the former life's replicas are still there: %v", got)
	}
	checkIndex(t, b)
}

// A restarted node's old list answers until the new one has arrived in full.
func TestOldListStaysUntilTheNewOneIsComplete(t *testing.T) {
	t.Parallel()
	old, b := newDirectory(testNode(0), 1, defaultLimits), newDirectory(testNode(1), 1, defaultLimits)
	if err := b.setAlive(old.self, 1, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := old.publish(testReplicas(1, 2)); err != nil {
		t.Fatal(err)
	}
	pull(t, b, old, 0, maxPageBytes)
	young := newDirectory(testNode(0), 2, defaultLimits)
	if _, _, _, err := young.publish(testReplicas(2, 3)); err != nil {
		t.Fatal(err)
	}
	announcement := young.announce(0, 2, true)[0]
	if out, err := b.apply(&announcement, 5); err != nil || !out.fresh || out.changed {
		t.Fatalf("announcement applied as %+v, %v", out, err)
	}
	if got := hostedBy(b, old.self); !slices.Equal(got, testReplicas(1, 2)) {
		t.Fatalf("while the new list is under way: %v", got)
	}
	if requests := b.wants(5, 1, 1, 8); len(requests) != 1 || requests[0].from != old.self {
		t.Fatalf("wants: %v", requests)
	}
	pull(t, b, young, 6, 1) // a page per change
	if got := hostedBy(b, old.self); !slices.Equal(got, testReplicas(2, 3)) {
		t.Fatalf("after the new list: %v", got)
	}
	if requests := b.wants(100, 1, 1, 8); len(requests) != 0 {
		t.Fatalf("still wants: %v", requests)
	}
	checkIndex(t, b)
}

// A node that restarts twice before its list has come does not vanish meanwhile.
func TestTwoRestartsInARow(t *testing.T) {
	t.Parallel()
	lives := make([]*directory, 3)
	for i := range lives {
		lives[i] = newDirectory(testNode(0), uint64(i)+1, defaultLimits)
		if _, _, _, err := lives[i].publish(testReplicas(i, 9)); err != nil {
			t.Fatal(err)
		}
	}
	b := newDirectory(testNode(1), 1, defaultLimits)
	if err := b.setAlive(testNode(0), 1, 0); err != nil {
		t.Fatal(err)
	}
	pull(t, b, lives[0], 0, maxPageBytes)
	for now, life := range lives[1:] {
		b.compare(testNode(0), life.vector(), int64(now)+1)
		if got := hostedBy(b, testNode(0)); !slices.Equal(got, testReplicas(0, 9)) {
			t.Fatalf("while list %d is under way: %v", now+2, got)
		}
		checkIndex(t, b)
	}
	pull(t, b, lives[2], 9, maxPageBytes)
	if got := hostedBy(b, testNode(0)); !slices.Equal(got, testReplicas(2, 9)) {
		t.Fatalf("in the end: %v", got)
	}
}

func TestHoldersOrder(t *testing.T) {
	t.Parallel()
	d := newDirectory(testNode(9), 1, defaultLimits)
	s := testStructure(0)
	older := id.Group{Structure: s, Incarnation: id.Incarnation{Birth: 5}}
	newer := id.Group{Structure: s, Incarnation: id.Incarnation{Birth: 5, Recovery: 1}}
	hosts := []struct {
		group id.Group
		dead  bool
	}{{older, false}, {newer, true}, {newer, false}, {newer, false}}
	for i, h := range hosts {
		if err := d.setAlive(testNode(i), 1, 0); err != nil {
			t.Fatal(err)
		}
		o := newDirectory(testNode(i), 1, defaultLimits)
		if _, _, _, err := o.publish([]Replica{{Group: h.group, ID: id.Replica(i + 1)}}); err != nil {
			t.Fatal(err)
		}
		pull(t, d, o, 0, maxPageBytes)
		if h.dead {
			d.setDead(testNode(i), 0)
		}
	}
	var got []int
	for _, h := range d.holders(s) {
		got = append(got, int(h.ID)-1)
	}
	if want := []int{2, 3, 0, 1}; !slices.Equal(got, want) {
		t.Fatalf("holders in order %v, want %v", got, want)
	}
}

// Removals do not pile up: the owner starts a new generation.
func TestTombstonesAreBounded(t *testing.T) {
	t.Parallel()
	a, b := newDirectory(testNode(0), 1, defaultLimits), newDirectory(testNode(1), 1, defaultLimits)
	if err := b.setAlive(a.self, 1, 0); err != nil {
		t.Fatal(err)
	}
	generations := 0
	for i := range 5000 {
		_, _, whole, err := a.publish(testReplicas(i, i+1, i+2))
		if err != nil {
			t.Fatal(err)
		}
		if whole {
			generations++
		}
		if n := len(a.own.current.entries); n > minTombstones+4 {
			t.Fatalf("after %d publishes the own list has %d entries", i, n)
		}
		if i%700 == 0 {
			pull(t, b, a, int64(i), 4096)
		}
	}
	pull(t, b, a, 5000, 4096)
	if got, want := hostedBy(b, a.self), testReplicas(4999, 5000, 5001); !slices.Equal(got, want) {
		t.Fatalf("b says %v, want %v", got, want)
	}
	if n := len(b.nodes[a.self].current.entries); n > minTombstones+4 || generations != 4 {
		t.Fatalf("%d entries at b after %d generations", n, generations)
	}
	checkIndex(t, a)
	checkIndex(t, b)
}

// The rule by which lists go: keep after their node died, or after they were
// replaced; and what went does not come back by way of a slower neighbour.
func TestExpire(t *testing.T) {
	t.Parallel()
	a, b, c := newDirectory(testNode(0), 1, defaultLimits), newDirectory(testNode(1), 1, defaultLimits), newDirectory(testNode(2), 1, defaultLimits)
	for _, d := range []*directory{b, c} {
		if err := d.setAlive(a.self, 1, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, _, err := a.publish(testReplicas(1)); err != nil {
		t.Fatal(err)
	}
	pull(t, b, a, 0, maxPageBytes)
	pull(t, c, a, 0, maxPageBytes)
	b.setDead(a.self, 10)
	if gone, _ := b.expire(109, 100); len(gone) != 0 {
		t.Fatalf("forgot %v too early", gone)
	}
	if len(b.holders(testStructure(1))) != 1 {
		t.Fatal("a dead node's list is gone at once")
	}
	if gone, changed := b.expire(110, 100); len(gone) != 1 || !changed {
		t.Fatalf("forgot %v, changed %t", gone, changed)
	}
	pull(t, b, c, 111, maxPageBytes)
	if len(b.holders(testStructure(1))) != 0 || b.live != 0 || len(b.nodes) != 1 {
		t.Fatal("the list of a forgotten node came back")
	}
	// It restarts, and publishes nothing: the old list goes in the end, too.
	if err := c.setAlive(a.self, 2, 200); err != nil {
		t.Fatal(err)
	}
	c.expire(299, 100)
	if len(c.holders(testStructure(1))) != 1 {
		t.Fatal("a restarted node's old list is gone at once")
	}
	if _, changed := c.expire(300, 100); !changed || len(c.holders(testStructure(1))) != 0 {
		t.Fatal("a restarted node's old list stays for ever")
	}
	checkIndex(t, c)
}

func TestBounds(t *testing.T) {
	t.Parallel()
	bounds := limits{nodes: 3, replicas: 8}
	a, b := newDirectory(testNode(0), 1, bounds), newDirectory(testNode(1), 1, bounds)
	if _, _, _, err := a.publish(testReplicas(1, 2, 3, 4, 5)); !errors.Is(err, ErrTooMany) {
		t.Fatalf("publishing too many: %v", err)
	}
	for n := range 3 {
		err := b.setAlive(testNode(10+n), 1, 0)
		if full := n == 2; full != errors.Is(err, ErrTooMany) {
			t.Fatalf("node %d: %v", n, err)
		}
	}
	u := update{node: testNode(10), epoch: epoch{1, 0}, to: 9, head: 9}
	for n := range 9 {
		u.changes = append(u.changes, change{testGroup(n), entry{id: 1, sequence: uint64(n) + 1}})
	}
	if _, err := b.apply(&u, 0); !errors.Is(err, ErrTooMany) || b.live != 0 {
		t.Fatalf("a list beyond the bound: %v, %d replicas", err, b.live)
	}
}

// Nothing that another node says changes the own list; it is noticed, though.
func TestOwnListIsOwn(t *testing.T) {
	t.Parallel()
	a := newDirectory(testNode(0), 5, defaultLimits)
	if _, _, _, err := a.publish(testReplicas(1)); err != nil {
		t.Fatal(err)
	}
	u := update{node: a.self, epoch: epoch{6, 0}, to: 1, head: 1, changes: []change{{testGroup(2), entry{id: 1, sequence: 1}}}}
	if out, err := a.apply(&u, 0); err != nil || out.fresh || out.changed {
		t.Fatalf("applied as %+v, %v", out, err)
	}
	for _, test := range []struct {
		version version
		want    bool
	}{
		{version{a.self, epoch{4, 9}, 100}, false},
		{version{a.self, epoch{5, 0}, 1}, false},
		{version{a.self, epoch{5, 0}, 2}, true},
		{version{a.self, epoch{6, 0}, 1}, true},
	} {
		if got := a.compare(testNode(1), []version{test.version}, 0); got != test.want {
			t.Errorf("%+v: stranger %t", test.version, got)
		}
	}
}
