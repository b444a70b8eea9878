package gossip

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// recorder keeps what Remember was told last.
type recorder struct {
	mu   sync.Mutex
	last []string
	kick chan struct{}
}

func newRecorder() *recorder { return &recorder{kick: make(chan struct{}, 1)} }

func (r *recorder) remember(addresses []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = addresses
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *recorder) until(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		got := slices.Clone(r.last)
		r.mu.Unlock()
		if slices.Equal(got, want) {
			return
		}
		select {
		case <-r.kick:
		case <-deadline:
			t.Fatalf("remembers %v, want %v", got, want)
		}
	}
}

func TestRemember(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	c := testConfig(0)
	c.Remember = r.remember
	first := start(t, c)
	first.Found(testCluster(1))
	second := start(t, testConfig(1, addressOf(first)))
	join(t, second)
	third := start(t, testConfig(2, addressOf(first)))
	join(t, third)
	r.until(t, addressOf(second), addressOf(third))
	// A dead node is still remembered, one that has left is not.
	closeNow(t, second)
	untilAlive(t, first, 0, 2)
	if err := third.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.until(t, addressOf(second))
}

// All are gone at once and come back knowing only what they remembered.
func TestRestartFindsPeersByItself(t *testing.T) {
	t.Parallel()
	members := socketsLab(t).grow(t, 2)
	_, port := members[0].Addr()
	remembered := addressOf(members[0])
	closeNow(t, members[0])
	closeNow(t, members[1])
	c := testConfig(1)
	c.Incarnation, c.Cluster, c.Remembered = 2, testCluster(1), []string{remembered, "127.0.0.1:1"}
	second := start(t, c)
	second.Found(testCluster(1)) // returns at once, though nobody is there
	c = testConfig(0)
	c.Incarnation, c.Cluster, c.BindPort = 2, testCluster(1), port
	first := start(t, c)
	first.Found(testCluster(1))
	untilAlive(t, second, 0, 1)
	untilAlive(t, first, 0, 1)
}

// An address that another cluster has by now is forgotten, and no error.
func TestRememberedForeigner(t *testing.T) {
	t.Parallel()
	foreigner := start(t, testConfig(0))
	foreigner.Found(testCluster(2))
	friend := start(t, testConfig(1))
	friend.Found(testCluster(1))
	r := newRecorder()
	c := testConfig(2)
	c.Cluster, c.Remembered, c.Remember = testCluster(1), []string{addressOf(foreigner), addressOf(friend)}, r.remember
	m := start(t, c)
	if got := join(t, m); got != testCluster(1) {
		t.Fatalf("joined %s", got)
	}
	r.until(t, addressOf(friend))
}
