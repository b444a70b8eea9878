package raftgroup_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// journal is a subscriber whose data structure is the list of its commits.
type journal struct {
	t   testing.TB
	sub *raftgroup.Subscription

	mu    sync.Mutex
	lines []string
	loads int
	gate  chan struct{} // commits are read once it is closed; nil: at once
	errs  []error
	done  chan struct{}
}

func subscribe(t testing.TB, n *rig.Node, cfg raftgroup.SubscriptionConfig) *journal {
	t.Helper()
	j := newJournal(t)
	j.subscribe(n, cfg)
	return j
}

// newJournal makes a journal that has some lines already.
func newJournal(t testing.TB, lines ...string) *journal {
	return &journal{t: t, lines: lines, done: make(chan struct{})}
}

func (j *journal) subscribe(n *rig.Node, cfg raftgroup.SubscriptionConfig) {
	j.t.Helper()
	if cfg.Provider == nil {
		cfg.Provider = j.provide
	}
	sub, err := n.Host.Subscribe(cfg)
	if err != nil {
		j.t.Fatal(err)
	}
	j.sub = sub
	go j.serve()
}

// provide reads without a lock, as the published hashmap does: it is called
// while the consumer waits.
func (j *journal) provide() ([]byte, error) {
	var b bytes.Buffer
	for _, l := range j.lines {
		fmt.Fprintln(&b, l)
	}
	return b.Bytes(), nil
}

func (j *journal) serve() {
	defer close(j.done)
	commits, errs := j.sub.Commits(), j.sub.Errors()
	gate := j.gate
	if gate != nil {
		commits = nil
	}
	for commits != nil || errs != nil || gate != nil {
		select {
		case <-gate:
			gate, commits = nil, j.sub.Commits()
		case p, ok := <-commits:
			if !ok {
				commits = nil
				continue
			}
			if p == nil {
				j.load()
				continue
			}
			j.mu.Lock()
			j.lines = append(j.lines, string(p))
			j.mu.Unlock()
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			j.mu.Lock()
			j.errs = append(j.errs, err)
			j.mu.Unlock()
		}
	}
}

func (j *journal) load() {
	data, err := j.sub.Consume()
	if err != nil {
		j.t.Errorf("consume: %v", err)
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.loads++
	j.lines = nil
	for _, l := range bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n")) {
		if len(l) > 0 {
			j.lines = append(j.lines, string(l))
		}
	}
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.lines...)
}

func (j *journal) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.lines)
}

// loaded is how often it has loaded a state.
func (j *journal) loaded() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.loads
}

func (j *journal) errors() []error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]error(nil), j.errs...)
}

func (j *journal) propose(from string, n int) {
	for i := range n {
		j.sub.Propose() <- []byte(fmt.Sprintf("%s-%d", from, i))
	}
}

func same(t testing.TB, js ...*journal) {
	t.Helper()
	want := js[0].all()
	for i, j := range js[1:] {
		got := j.all()
		if len(got) != len(want) {
			t.Fatalf("subscriber %d has %d commits, subscriber 0 has %d", i+1, len(got), len(want))
		}
		for k := range want {
			if got[k] != want[k] {
				t.Fatalf("subscriber %d differs at %d: %q, want %q", i+1, k, got[k], want[k])
			}
		}
	}
}

func TestOneNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 1, 1)
		c.StartAll()
		s := rig.Structure(7)
		c.Born(s, 1, raftgroup.Options{})
		j := subscribe(t, c.Nodes[0], raftgroup.SubscriptionConfig{Structure: s})
		j.propose("a", 1000)
		c.Wait(10*time.Second, "1000 commits", func() bool { return j.count() == 1000 })
		c.StopAll()
		<-j.done
		for i, l := range j.all() {
			if l != fmt.Sprintf("a-%d", i) {
				t.Fatalf("commit %d is %q", i, l)
			}
		}
		if len(j.errs) > 0 {
			t.Fatalf("errors: %v", j.errs)
		}
	})
}

func TestThreeNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 3, 1)
		c.StartAll()
		s := rig.Structure(7)
		c.Born(s, 3, raftgroup.Options{SnapshotEntries: 500})
		var js []*journal
		for _, n := range c.Nodes {
			js = append(js, subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s}))
		}
		for i, j := range js {
			go j.propose(fmt.Sprint(i), 1000)
		}
		c.Wait(60*time.Second, "3000 commits everywhere", func() bool {
			return js[0].count() == 3000 && js[1].count() == 3000 && js[2].count() == 3000
		})
		same(t, js...)
		c.StopAll()
		for _, j := range js {
			<-j.done
		}
		c.StartAll()
		js = nil
		for _, n := range c.Nodes {
			js = append(js, subscribe(t, n, raftgroup.SubscriptionConfig{Structure: s}))
		}
		c.Wait(60*time.Second, "3000 commits everywhere after the restart", func() bool {
			return js[0].count() == 3000 && js[1].count() == 3000 && js[2].count() == 3000
		})
		same(t, js...)
		c.StopAll()
		for _, j := range js {
			<-j.done
		}
	})
}
