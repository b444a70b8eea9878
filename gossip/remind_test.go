package gossip

import (
	"slices"
	"testing"
)

// A reminder holds the lists that changed neither just now nor long ago, at most
// so many of them, and the own list in front, whenever that changed.
func TestRecent(t *testing.T) {
	t.Parallel()
	d := newDirectory(testNode(0), 1, defaultLimits)
	if _, _, _, err := d.publish(testReplicas(1)); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 40; n++ {
		if err := d.setAlive(testNode(n), 1, 1); err != nil {
			t.Fatal(err)
		}
		o := newDirectory(testNode(n), 1, defaultLimits)
		from, to, whole, err := o.publish(testReplicas(1, 2))
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range o.announce(from, to, whole) {
			if _, err := d.apply(&u, int64(100*n)); err != nil { // list n changes at 100 n
				t.Fatal(err)
			}
		}
	}
	first := func(int) int { return 0 }
	if got := d.recent(10_000, 50, 1000, 32, first); got != nil {
		t.Errorf("nothing changed lately, and yet: %v", got)
	}
	got := d.recent(4000, 50, 500, 32, first) // 35 to 39: of 40 the news are still on their way
	if len(got) != 6 || got[0] != d.own.version() {
		t.Fatalf("%v", got)
	}
	for n := 35; n <= 39; n++ {
		if !slices.Contains(got, d.nodes[testNode(n)].version()) {
			t.Errorf("list %d is missing in %v", n, got)
		}
	}
	if got := d.recent(4000, 0, 4000, 32, first); len(got) != 33 {
		t.Errorf("%d versions, want the own and 32", len(got))
	}
	d.own.movedAt = 3800
	if got := d.recent(4000, 150, 250, 32, first); len(got) != 2 || got[0] != d.own.version() || got[1] != d.nodes[testNode(38)].version() {
		t.Errorf("%v", got)
	}
}
