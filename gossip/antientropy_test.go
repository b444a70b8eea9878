package gossip

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// Who asks with the version of a former life gets the new one from its start.
func TestPagesForAFormerLife(t *testing.T) {
	t.Parallel()
	young := newDirectory(testNode(0), 2, defaultLimits)
	if _, _, _, err := young.publish(testReplicas(1, 2)); err != nil {
		t.Fatal(err)
	}
	for since, changes := range map[version]int{
		{young.self, epoch{1, 7}, 100}: 2, {young.self, epoch{2, 0}, 1}: 1, {young.self, epoch{2, 0}, 2}: 0,
		{young.self, epoch{2, 1}, 0}: 0, {testNode(5), epoch{}, 0}: 0, {young.self, epoch{}, 0}: 2,
	} {
		updates, more := young.pages([]version{since}, 1000, 1000)
		got := 0
		for _, u := range updates {
			got += len(u.changes)
		}
		if got != changes || more {
			t.Errorf("since %+v: %d changes, more %t, want %d", since, got, more, changes)
		}
	}
}

// Whoever comes back to life, or in a new life, is asked once what it has.
func TestAskedOnceWhenItAppears(t *testing.T) {
	t.Parallel()
	b := newDirectory(testNode(1), 1, defaultLimits)
	asked := func(want int) {
		t.Helper()
		if got := len(b.wants(1000, 1, 1, 8)); got != want {
			t.Fatalf("%d requests, want %d", got, want)
		}
		b.answeredBy(testNode(0), nil)
		if got := len(b.wants(5000, 1, 1, 8)); got != 0 {
			t.Fatalf("%d requests after the answer", got)
		}
	}
	appear := func(incarnation uint64) {
		if err := b.setAlive(testNode(0), incarnation, 1); err != nil {
			t.Fatal(err)
		}
	}
	appear(1)
	asked(1)
	appear(1)
	asked(0)
	b.setDead(testNode(0), 2)
	asked(0)
	appear(1)
	asked(1)
	appear(2)
	asked(1)
}

// Requests go to whoever should know, back off, and start again with news.
func TestWantsBackOff(t *testing.T) {
	t.Parallel()
	b := newDirectory(testNode(1), 1, defaultLimits)
	owner, teller := testNode(0), testNode(2)
	for _, n := range []id.Node{owner, teller} {
		if err := b.setAlive(n, 1, 1); err != nil {
			t.Fatal(err)
		}
	}
	b.compare(teller, []version{{owner, epoch{1, 0}, 10}}, 1)
	var asked []string
	for now := int64(1); now < 400; now++ {
		for _, w := range b.wants(now, 10, 0, 8) {
			asked = append(asked, fmt.Sprintf("%d:%d", now, w.from[15]))
		}
	}
	// 3 is the teller, which knows for sure; 1 the owner.
	want := []string{"1:3", "11:1", "21:3", "31:1", "41:3", "61:1", "101:3", "181:1", "261:3", "341:1"}
	if !slices.Equal(asked, want) {
		t.Fatalf("asked %v, want %v", asked, want)
	}
	b.setDead(teller, 2000)
	b.setDead(owner, 2000)
	if w := b.wants(100000, 10, 0, 8); len(w) != 0 {
		t.Fatalf("asks the dead: %v", w)
	}
}

// What waits for time to pass in the directory does not go by the time of day,
// which may be set back.
func TestDirectoryTimeIsNotTheTimeOfDay(t *testing.T) {
	t.Parallel()
	members := socketsLab(t).grow(t, 2)
	members[0].Publish(testReplicas(1))
	untilHolds(t, members[1], 1, 0)
	for i, m := range members {
		g := m.(*Gossip)
		g.mu.Lock()
		for node, h := range g.directory.nodes {
			for _, at := range []int64{h.replacedAt, h.lostAt, h.restartedAt, h.movedAt, h.askedAt, h.holeAt} {
				if at > int64(time.Hour) {
					t.Errorf("node %d has %s at %s since it was started", i, node, time.Duration(at))
				}
			}
		}
		g.mu.Unlock()
	}
}
