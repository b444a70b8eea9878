package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// membership is what Gossip and Memory share.
type membership interface {
	Join(context.Context) (id.Cluster, error)
	Found(id.Cluster)
	Node(id.Node) (Node, bool)
	Nodes() []Node
	Publish([]Replica)
	Holders(id.Structure) []Holding
	Rebuilt() []id.Structure
	Changed() <-chan struct{}
	Addr() (string, int)
	Stats() Stats
	SetLeaving(bool)
	Leave(context.Context) error
	Close() error
}

var (
	_ membership = (*Gossip)(nil)
	_ membership = (*Memory)(nil)
)

// lab starts members of one kind.
type lab struct {
	start func(*testing.T, Config) (membership, error)
	// crash stops a member without a word.
	crash func(*testing.T, membership)
	// cut separates the given members from the rest; nil heals.
	cut func(*testing.T, ...membership)
}

const patience = 2 * time.Minute

func testCluster(n int) id.Cluster {
	var c id.Cluster
	c[0], c[15] = 1, byte(n)
	return c
}

func testConfig(n int, peers ...string) Config {
	return Config{
		Node: testNode(n), Incarnation: 1, Profile: Local, TransportPort: 9000 + n, DataCenter: fmt.Sprintf("dc%d", n%3),
		Rack: "r1", Capacity: uint32(n), Version: 7, Peers: peers,
	}
}

func addressOf(m membership) string {
	host, port := m.Addr()
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// until waits for a condition on what m knows.
func until(t *testing.T, m membership, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		changed := m.Changed()
		if holds() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not within %v: %s; nodes %+v, stats %+v", patience, what, m.Nodes(), m.Stats())
		}
	}
}

func alive(m membership) (nodes []id.Node) {
	for _, n := range m.Nodes() {
		if n.Alive {
			nodes = append(nodes, n.ID)
		}
	}
	return nodes
}

func untilAlive(t *testing.T, m membership, want ...int) {
	t.Helper()
	nodes := make([]id.Node, len(want))
	for i, n := range want {
		nodes[i] = testNode(n)
	}
	until(t, m, fmt.Sprintf("alive are %v", want), func() bool { return slices.Equal(alive(m), nodes) })
}

func untilHolds(t *testing.T, m membership, structure int, want ...int) {
	t.Helper()
	until(t, m, fmt.Sprintf("structure %d is held by %v", structure, want), func() bool {
		var got []int
		for _, h := range m.Holders(testStructure(structure)) {
			got = append(got, int(h.Node[15])-1)
		}
		return slices.Equal(got, want)
	})
}

func (l lab) must(t *testing.T, c Config) membership {
	t.Helper()
	m, err := l.start(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func join(t *testing.T, m membership) id.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cluster, err := m.Join(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return cluster
}

// grow starts n members: the first founds, the others join it.
func (l lab) grow(t *testing.T, n int) []membership {
	t.Helper()
	members := []membership{l.must(t, testConfig(0))}
	members[0].Found(testCluster(1))
	for i := 1; i < n; i++ {
		m := l.must(t, testConfig(i, addressOf(members[0])))
		if got := join(t, m); got != testCluster(1) {
			t.Fatalf("joined %s", got)
		}
		members = append(members, m)
	}
	want := make([]int, n)
	for i := range want {
		want[i] = i
	}
	for _, m := range members {
		untilAlive(t, m, want...)
	}
	return members
}

func TestConformance(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(*testing.T) lab{"memory": memoryLab, "mock": mockLab, "sockets": socketsLab}
	cases := map[string]func(*testing.T, lab){
		"JoinAndSee":            testJoinAndSee,
		"DirectorySpreads":      testDirectorySpreads,
		"LateJoinerCatchesUp":   testLateJoinerCatchesUp,
		"CrashAndRestart":       testCrashAndRestart,
		"Leave":                 testLeave,
		"SetLeaving":            testSetLeaving,
		"LookingIsNoCluster":    testLookingIsNoCluster,
		"LookingFindsLater":     testLookingFindsLater,
		"NothingToContact":      testNothingToContact,
		"WrongCluster":          testWrongCluster,
		"Closed":                testClosed,
		"PartitionHeals":        testPartitionHeals,
		"Rebuilt":               testRebuilt,
		"CallerKeepsItsSlices":  testCallerKeepsItsSlices,
		"JoinKnownClusterAgain": testJoinKnownClusterAgain,
	}
	for kind, makeLab := range kinds {
		for name, run := range cases {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				run(t, makeLab(t))
			})
		}
	}
}

func memoryLab(*testing.T) lab {
	hub := NewHub(nil)
	return lab{
		start: func(_ *testing.T, c Config) (membership, error) {
			m, err := hub.Start(c)
			if err != nil {
				return nil, err
			}
			return m, nil
		},
		crash: func(_ *testing.T, m membership) { hub.Kill(m.(*Memory).config.Node) },
		cut: func(_ *testing.T, members ...membership) {
			var side []id.Node
			for _, m := range members {
				side = append(side, m.(*Memory).config.Node)
			}
			hub.Partition(side)
		},
	}
}

func startGossip(t *testing.T, c Config) (membership, error) {
	if c.Logger == nil && testing.Verbose() {
		c.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	g, err := Start(c)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g, nil
}

// testWriter drops what comes after the test: memberlist's last words.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(string(b))
	}
	return len(b), nil
}

func closeNow(t *testing.T, m membership) {
	t.Helper()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

func mockLab(t *testing.T) lab {
	network := newMockNetwork(t)
	return lab{
		start: func(t *testing.T, c Config) (membership, error) {
			c.Transport = network.transport()
			return startGossip(t, c)
		},
		crash: closeNow,
		cut: func(_ *testing.T, members ...membership) {
			var side []*mockTransport
			for _, m := range members {
				side = append(side, m.(*Gossip).config.Transport.(*mockTransport))
			}
			network.partition(side...)
		},
	}
}

func socketsLab(*testing.T) lab { return lab{start: startGossip, crash: closeNow} }
