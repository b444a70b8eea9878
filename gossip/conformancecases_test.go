package gossip

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/copycat-replication/copycat/id"
)

func testJoinAndSee(t *testing.T, l lab) {
	members := l.grow(t, 4)
	for _, m := range members {
		nodes := m.Nodes()
		for i, n := range nodes {
			want := Node{
				ID: testNode(i), Incarnation: 1, Address: addressOf(members[i]), Transport: fmt.Sprintf("127.0.0.1:%d", 9000+i),
				DataCenter: fmt.Sprintf("dc%d", i%3), Rack: "r1", Capacity: uint32(i), Version: 7, Alive: true, Since: n.Since,
			}
			if n != want {
				t.Errorf("node %d is %+v, want %+v", i, n, want)
			}
			if n.Since.IsZero() {
				t.Errorf("node %d is alive since never", i)
			}
			if one, ok := m.Node(n.ID); !ok || one != n {
				t.Errorf("Node gives %+v, Nodes %+v", one, n)
			}
		}
		if _, ok := m.Node(testNode(99)); ok {
			t.Error("an unknown node is known")
		}
	}
}

func testDirectorySpreads(t *testing.T, l lab) {
	members := l.grow(t, 3)
	members[0].Publish(testReplicas(1, 2))
	members[1].Publish(testReplicas(2))
	for _, m := range members {
		untilHolds(t, m, 1, 0)
		untilHolds(t, m, 2, 0, 1)
		if got := m.Holders(testStructure(2))[1]; got.Replica != testReplicas(2)[0] {
			t.Fatalf("holding %+v", got)
		}
	}
	members[0].Publish(testReplicas(1))
	for _, m := range members {
		untilHolds(t, m, 2, 1)
	}
	// A replica that changes its role.
	changed := testReplicas(1)
	changed[0].Role = 9
	members[0].Publish(changed)
	for _, m := range members {
		until(t, m, "the role changes", func() bool { return m.Holders(testStructure(1))[0].Role == 9 })
	}
	if got := members[2].Holders(testStructure(77)); len(got) != 0 {
		t.Fatalf("an unknown structure is held: %v", got)
	}
	if s := members[2].Stats(); s.Nodes != 3 || s.Alive != 3 || s.Replicas != 2 {
		t.Fatalf("stats %+v", s)
	}
}

// More than goes into broadcasts, and before anyone listened.
func testLateJoinerCatchesUp(t *testing.T, l lab) {
	first := l.must(t, testConfig(0))
	first.Found(testCluster(1))
	groups := make([]int, 2000)
	for i := range groups {
		groups[i] = i
	}
	first.Publish(testReplicas(groups...))
	second := l.must(t, testConfig(1, addressOf(first)))
	second.Publish(testReplicas(5000))
	join(t, second)
	until(t, second, "all is there", func() bool { return second.Stats().Replicas == 2001 })
	untilHolds(t, first, 5000, 1)
	untilHolds(t, second, 1999, 0)
	// A large change at once, too.
	first.Publish(testReplicas(groups[:1000]...))
	until(t, second, "half is gone", func() bool { return second.Stats().Replicas == 1001 })
}

func testCrashAndRestart(t *testing.T, l lab) {
	members := l.grow(t, 3)
	members[2].Publish(testReplicas(1))
	members[1].Publish(testReplicas(1))
	untilHolds(t, members[0], 1, 1, 2)
	l.crash(t, members[1])
	untilAlive(t, members[0], 0, 2)
	untilAlive(t, members[2], 0, 2)
	if n, ok := members[0].Node(testNode(1)); !ok || n.Alive || n.Left {
		t.Fatalf("the dead node is %+v, %t", n, ok)
	}
	untilHolds(t, members[0], 1, 2, 1) // the live one first
	c := testConfig(1, addressOf(members[2]))
	c.Incarnation, c.Cluster = 2, testCluster(1)
	again := l.must(t, c)
	join(t, again)
	for _, m := range []membership{members[0], again, members[2]} {
		untilAlive(t, m, 0, 1, 2)
	}
	again.Publish(testReplicas(2))
	for _, m := range []membership{members[0], again, members[2]} {
		untilHolds(t, m, 1, 2)
		untilHolds(t, m, 2, 1)
	}
	if n, _ := members[0].Node(testNode(1)); n.Incarnation != 2 {
		t.Fatalf("the restarted node is %+v", n)
	}
}

func testLeave(t *testing.T, l lab) {
	members := l.grow(t, 3)
	if err := members[1].Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, m := range []membership{members[0], members[2]} {
		until(t, m, "the node has left", func() bool {
			n, ok := m.Node(testNode(1))
			return ok && !n.Alive && n.Left
		})
	}
	if err := members[1].Leave(t.Context()); !errors.Is(err, ErrClosed) {
		t.Fatalf("leaving twice: %v", err)
	}
	if _, err := members[1].Join(t.Context()); !errors.Is(err, ErrClosed) {
		t.Fatalf("joining after leaving: %v", err)
	}
	closeNow(t, members[1])
}

// A node that is about to leave says so, and takes it back, and says it for good.
func testSetLeaving(t *testing.T, l lab) {
	members := l.grow(t, 3)
	for _, leaving := range []bool{true, false, true} {
		members[1].SetLeaving(leaving)
		for _, m := range members {
			until(t, m, fmt.Sprintf("the node is alive, and leaving is %t", leaving), func() bool {
				n, ok := m.Node(testNode(1))
				return ok && n.Alive && n.Left == leaving
			})
		}
	}
	if err := members[1].Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, members[0], "the node has left", func() bool {
		n, ok := members[0].Node(testNode(1))
		return ok && !n.Alive && n.Left
	})
	closeNow(t, members[1])
}

func testLookingIsNoCluster(t *testing.T, l lab) {
	first := l.must(t, testConfig(0))
	second := l.must(t, testConfig(1, addressOf(first)))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if cluster, err := second.Join(ctx); !errors.Is(err, ErrNoCluster) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("joined %s, %v", cluster, err)
	}
	if len(first.Nodes()) != 1 || len(second.Nodes()) != 1 {
		t.Fatal("nodes that look for a cluster list each other")
	}
}

func testLookingFindsLater(t *testing.T, l lab) {
	first := l.must(t, testConfig(0))
	second := l.must(t, testConfig(1, addressOf(first)))
	third := l.must(t, testConfig(2, addressOf(second), addressOf(first)))
	results := make(chan error, 2)
	for _, m := range []membership{second, third} {
		go func() {
			cluster, err := m.Join(t.Context())
			if err == nil && cluster != testCluster(4) {
				err = fmt.Errorf("joined %s", cluster)
			}
			results <- err
		}()
	}
	select {
	case err := <-results:
		t.Fatalf("joined nothing: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	first.Found(testCluster(4))
	for range 2 {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []membership{first, second, third} {
		untilAlive(t, m, 0, 1, 2)
	}
}

func testNothingToContact(t *testing.T, l lab) {
	m := l.must(t, testConfig(0))
	if _, err := m.Join(t.Context()); !errors.Is(err, ErrNoCluster) {
		t.Fatalf("joined nobody: %v", err)
	}
}

func testWrongCluster(t *testing.T, l lab) {
	first := l.must(t, testConfig(0))
	first.Found(testCluster(1))
	c := testConfig(1, addressOf(first))
	c.Cluster = testCluster(2)
	second := l.must(t, c)
	_, err := second.Join(t.Context())
	if !errors.Is(err, ErrWrongCluster) {
		t.Fatalf("joined another cluster: %v", err)
	}
	for _, cluster := range []id.Cluster{testCluster(1), testCluster(2)} {
		if !contains(err.Error(), cluster.String()) {
			t.Errorf("the error does not name cluster %s: %v", cluster, err)
		}
	}
	second.Found(testCluster(2))
	third := l.must(t, testConfig(2, addressOf(second)))
	if got := join(t, third); got != testCluster(2) {
		t.Fatalf("joined %s", got)
	}
	untilAlive(t, second, 1, 2)
	untilAlive(t, first, 0)
	if len(first.Nodes()) != 1 {
		t.Fatalf("foreigners are listed: %+v", first.Nodes())
	}
}

func contains(text, part string) bool {
	for i := range len(text) - len(part) + 1 {
		if text[i:i+len(part)] == part {
			return true
		}
	}
	return false
}

func testClosed(t *testing.T, l lab) {
	members := l.grow(t, 2)
	m := members[1]
	closeNow(t, m)
	closeNow(t, m)
	if _, err := m.Join(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Join: %v", err)
	}
	if err := m.Leave(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Leave: %v", err)
	}
	m.Found(testCluster(1))
	m.Publish(testReplicas(1))
	m.Holders(testStructure(1))
	m.Nodes()
	m.Stats()
}

// A partition that lasts until both sides have forgotten each other heals.
func testPartitionHeals(t *testing.T, l lab) {
	if l.cut == nil {
		t.Skip("real sockets are not cut")
	}
	members := l.grow(t, 3)
	l.cut(t, members[2])
	untilAlive(t, members[2], 2)
	untilAlive(t, members[0], 0, 1)
	untilAlive(t, members[1], 0, 1)
	members[2].Publish(testReplicas(1))
	members[0].Publish(testReplicas(2))
	untilHolds(t, members[1], 2, 0)
	untilForgotten(t, members[2])
	untilForgotten(t, members[0])
	l.cut(t)
	for _, m := range members {
		untilAlive(t, m, 0, 1, 2)
		untilHolds(t, m, 1, 2)
		untilHolds(t, m, 2, 0)
	}
}

// untilForgotten waits until memberlist itself has no memory of dead nodes left.
func untilForgotten(t *testing.T, m membership) {
	g, ok := m.(*Gossip)
	if !ok {
		return
	}
	// memberlist's own count of all it knows, the dead included: there is no API.
	field := reflect.ValueOf(g.list).Elem().FieldByName("numNodes")
	known := (*atomic.Uint32)(unsafe.Pointer(field.UnsafeAddr()))
	want := uint32(len(alive(m)))
	for deadline := time.Now().Add(patience); known.Load() != want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("memberlist still knows %d nodes, want %d", known.Load(), want)
		}
	}
}

// testRebuilt: a structure counts as rebuilt as long as somebody says that its
// life has a recovery number.
func testRebuilt(t *testing.T, l lab) {
	first := l.must(t, testConfig(0))
	first.Found(testCluster(1))
	second := l.must(t, testConfig(1, addressOf(first)))
	join(t, second)
	again := testReplicas(1, 2)
	again[1].Group.Incarnation.Recovery = 1
	first.Publish(testReplicas(1, 2))
	second.Publish(again)
	is := func(want ...id.Structure) func() bool {
		return func() bool { return slices.Equal(first.Rebuilt(), want) }
	}
	until(t, first, "one structure is rebuilt", is(testStructure(2)))
	second.Publish(testReplicas(1))
	until(t, first, "none is rebuilt", is())
}

func testCallerKeepsItsSlices(t *testing.T, l lab) {
	m := l.must(t, testConfig(0))
	m.Found(testCluster(1))
	mine := testReplicas(1)
	m.Publish(mine)
	mine[0].ID = 99
	got := m.Holders(testStructure(1))
	if len(got) != 1 || got[0].ID == 99 {
		t.Fatalf("holders %v", got)
	}
	got[0].ID = 98
	if m.Holders(testStructure(1))[0].ID == 98 {
		t.Fatal("Holders hands out its own memory")
	}
	m.Nodes()[0].Rack = "x"
	if m.Nodes()[0].Rack == "x" {
		t.Fatal("Nodes hands out its own memory")
	}
}

// All of a cluster restarts at once: everyone knows the cluster, nobody founds.
func testJoinKnownClusterAgain(t *testing.T, l lab) {
	c := testConfig(0)
	c.Cluster = testCluster(3)
	first := l.must(t, c)
	c = testConfig(1)
	c.Cluster, c.Remembered = testCluster(3), []string{addressOf(first)}
	second := l.must(t, c)
	if got := join(t, second); got != testCluster(3) {
		t.Fatalf("joined %s", got)
	}
	untilAlive(t, first, 0, 1)
	untilAlive(t, second, 0, 1)
}
