package gossip

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// The twin waits on nothing but channels, and asks the hub for the time.
func TestMemoryInVirtualTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub(time.Now)
		first, err := hub.Start(testConfig(0))
		if err != nil {
			t.Fatal(err)
		}
		second, err := hub.Start(testConfig(1, addressOf(first)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		if _, err := second.Join(ctx); !errors.Is(err, ErrNoCluster) || time.Since(began) != time.Hour {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		go func() {
			time.Sleep(time.Minute)
			first.Found(testCluster(1))
		}()
		cluster, err := second.Join(t.Context())
		if err != nil || cluster != testCluster(1) || time.Since(began) != time.Hour+time.Minute {
			t.Fatalf("after %v: %s, %v", time.Since(began), cluster, err)
		}
		time.Sleep(time.Second)
		hub.Kill(testNode(0))
		if n, ok := second.Node(testNode(0)); !ok || n.Alive || !n.Since.Equal(time.Now()) {
			t.Fatalf("the dead node is %+v", n)
		}
	})
}

func TestMemoryControls(t *testing.T) {
	t.Parallel()
	hub := NewHub(nil)
	l := lab{start: func(_ *testing.T, c Config) (membership, error) { return hub.Start(c) }}
	members := l.grow(t, 3)
	members[1].Publish(testReplicas(1))
	seen := func(observer int, want ...int) {
		t.Helper()
		var got []id.Node
		for _, n := range want {
			got = append(got, testNode(n))
		}
		if a := alive(members[observer]); len(a) != len(got) {
			t.Fatalf("%d sees %v, want %v", observer, a, want)
		}
	}
	hub.Suspect(testNode(0), testNode(1), true)
	seen(0, 0, 2)
	seen(2, 0, 1, 2)
	hub.Suspect(testNode(0), testNode(1), false)
	seen(0, 0, 1, 2)
	hub.Hold()
	changed := members[0].Changed()
	members[1].Publish(testReplicas(1, 2))
	hub.Kill(testNode(2))
	seen(0, 0, 1, 2)
	untilHolds(t, members[0], 2)
	select {
	case <-changed:
		t.Fatal("news while the hub holds them back")
	default:
	}
	hub.Release()
	seen(0, 0, 1)
	untilHolds(t, members[0], 2, 1)
	<-changed
	hub.Partition([]id.Node{testNode(0)})
	seen(0, 0)
	seen(1, 1)
	members[1].Publish(nil)
	untilHolds(t, members[0], 2, 1) // the last it heard
	hub.Heal()
	untilHolds(t, members[0], 2)
	hub.Forget()
	if _, ok := members[0].Node(testNode(2)); ok {
		t.Fatal("a dead node is not forgotten")
	}
	if _, err := hub.Start(Config{Node: testNode(8), BindPort: members[0].(*Memory).config.BindPort}); !errors.Is(err, ErrAddressInUse) {
		t.Fatalf("two nodes at one address: %v", err)
	}
	if _, err := hub.Start(Config{}); !errors.Is(err, ErrConfig) {
		t.Fatalf("no node ID: %v", err)
	}
}
