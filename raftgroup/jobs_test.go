package raftgroup

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/copycat-replication/copycat/id"
)

// TestOneKindOfWaitingDoesNotHoldUpAnother: with every worker of one kind busy
// for good, jobs of the others run.
func TestOneKindOfWaitingDoesNotHoldUpAnother(t *testing.T) {
	t.Parallel()
	kinds := []func(jobs) *jobQueue{
		func(j jobs) *jobQueue { return j.transfers },
		func(j jobs) *jobQueue { return j.files },
		func(j jobs) *jobQueue { return j.calls },
	}
	for stuck := range kinds {
		synctest.Test(t, func(t *testing.T) {
			j := newJobs()
			j.start()
			over := make(chan struct{})
			for range 100 {
				kinds[stuck](j).add(func() { <-over })
			}
			for i, kind := range kinds {
				if i != stuck {
					done := make(chan struct{})
					kind(j).add(func() { close(done) })
					<-done // a deadlock fails the bubble
				}
			}
			close(over)
			j.stop()
		})
	}
}

// TestOneCallForEachNodeAndStructure: while a node is being asked to host a
// replica of a structure, it is not asked again; another node, or for another
// structure, is.
func TestOneCallForEachNodeAndStructure(t *testing.T) {
	t.Parallel()
	q := newJobQueue()
	ran := 0
	ask := func(node, structure byte) {
		q.addAlone(hostRequest{id.Node{node}, id.Structure{structure}}, func() { ran++ })
	}
	run := func(want int) {
		t.Helper()
		for ran = 0; q.runOne(false); {
		}
		if ran != want {
			t.Fatalf("%d calls, want %d", ran, want)
		}
	}
	ask(1, 1)
	ask(1, 1)
	ask(1, 2)
	ask(2, 1)
	run(3)
	ask(1, 1)
	run(1)
	q.addAlone(hostRequest{id.Node{1}, id.Structure{1}}, func() { ask(1, 1) }) // while it is being asked
	run(0)
}

// TestOneRemovalOfFilesWaits: a removal that has begun may not know of what came
// since, so another one is let in behind it, and not two.
func TestOneRemovalOfFilesWaits(t *testing.T) {
	t.Parallel()
	q := newJobQueue()
	g := &Group{}
	var ran []int
	q.addOnce(g, func() {
		ran = append(ran, 1)
		q.addOnce(g, func() { ran = append(ran, 3) })
		q.addOnce(g, func() { ran = append(ran, 4) })
	})
	q.addOnce(g, func() { ran = append(ran, 2) })
	for q.runOne(false) {
	}
	if !slices.Equal(ran, []int{1, 3}) {
		t.Fatalf("ran %d", ran)
	}
}

// TestStoppedJobsAreDropped: stop waits for what runs, and for nothing else.
func TestStoppedJobsAreDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := newJobs()
		j.start()
		over := make(chan struct{})
		var mu sync.Mutex
		ran := 0
		for range 100 {
			j.transfers.add(func() { <-over; mu.Lock(); ran++; mu.Unlock() })
		}
		synctest.Wait()
		stopped := make(chan struct{})
		go func() { j.stop(); close(stopped) }()
		synctest.Wait()
		select {
		case <-stopped:
			t.Error("stop did not wait for the jobs that run")
		default:
		}
		close(over)
		<-stopped
		j.transfers.add(func() { t.Error("a job runs after the end") })
		if ran != transferWorkers {
			t.Errorf("%d jobs ran, %d workers", ran, transferWorkers)
		}
	})
}

// TestNothingDependsOnMapOrder: in which order peers are tried, and
// subscriptions are shut down, is the same in every run.
func TestNothingDependsOnMapOrder(t *testing.T) {
	t.Parallel()
	members := make(map[id.Replica]id.Node)
	h := &Host{subs: make(map[*Subscription]uint64)}
	var nodes []id.Node
	var subs []*Subscription
	for i := range 50 {
		nodes = append(nodes, id.Node{byte(i)})
		members[id.Replica(i+1)] = nodes[i]
		subs = append(subs, &Subscription{})
		h.subs[subs[i]] = uint64(i)
	}
	if got := nodesOf(members); !slices.Equal(got, nodes) {
		t.Errorf("nodes in the order %v", got)
	}
	if got := h.inOrderLocked(); !slices.Equal(got, subs) {
		t.Error("subscriptions are not in the order in which they came")
	}
}
