package raftgroup_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestManyHeal loses a node with a voter of each of 80 structures: all are
// whole again, and no node begins more at once than it may. One of them is
// written to all the time, and feels nothing of it.
func TestManyHeal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const structures = 80
		w := newWard(t, 51, 5, 3)
		x := w.write(w.Nodes[0])
		for i := range structures {
			w.Born(rig.Structure(uint64(100+i)), 3, raftgroup.Options{})
		}
		time.Sleep(time.Second)
		w.Nodes[2].Crash(1)
		whole := func(n uint64) bool {
			nodes, _ := voterNodes(w.Cluster, rig.Structure(n))
			return len(nodes) == 3 && !slices.Contains(nodes, w.Nodes[2])
		}
		count := func() (n int) {
			for i := range structures {
				if whole(uint64(100 + i)) {
					n++
				}
			}
			return n
		}
		dead := time.Now()
		w.Wait(time.Minute, "the first is whole", func() bool { return count() > 0 })
		began, at := time.Now(), count()
		w.Wait(2*time.Minute, "all are whole", func() bool { return count() == structures })
		took := time.Since(began)
		t.Logf("the first after %s (%d at once), the last %s later", began.Sub(dead), at, took)
		// Two nodes lead: each begins 16 at once, and 8 a second after that.
		if least := time.Duration(float64(structures-2*(16+8)) / 16 * float64(time.Second)); took < least {
			t.Errorf("all within %s: that is faster than the limits allow, %s", took, least)
		}
		w.Wait(time.Minute, "the one under load too", func() bool { return w.healed(3) })
		if n := x.j.count(); n < 100 {
			t.Errorf("%d changes meanwhile", n)
		}
		w.verify()
	})
}

// TestSnapshotBandwidth seeds a new replica with a snapshot of 4 MiB at 1 MiB/s:
// that takes its time, while changes are committed as ever.
func TestSnapshotBandwidth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 52, 2, 1)
		tune := w.Tune
		w.StopAll()
		w.Tune = func(cfg *raftgroup.Config) {
			tune(cfg)
			cfg.SnapshotBandwidth = 1 << 20
		}
		w.Nodes[0].Start()
		w.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(w.Cluster, w.s); return ok })
		provider := func() ([]byte, error) { return make([]byte, 4<<20), nil }
		sub, err := w.Nodes[0].Host.Subscribe(raftgroup.SubscriptionConfig{Structure: w.s, Provider: provider})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range sub.Errors() {
			}
		}()
		read := make(chan int, 1)
		go func() {
			n := 0
			for p := range sub.Commits() {
				if p == nil {
					if _, err := sub.Consume(); err != nil {
						t.Error(err)
					}
					continue
				}
				n++
			}
			read <- n
		}()
		for range 300 {
			sub.Propose() <- []byte("x")
		}
		w.Wait(time.Minute, "a snapshot", func() bool {
			_, st, ok := leadNode(w.Cluster, w.s)
			return ok && st.Snapshot.Size > 4<<20
		})
		w.Nodes[1].Start()
		if err := w.Nodes[1].Host.Join(w.s, w.Nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		sent := 0
		for !holds(w.Nodes[1], w.s) {
			select {
			case sub.Propose() <- []byte("y"):
				sent++
			case <-time.After(time.Second):
				t.Fatal("no change is taken while a snapshot is sent")
			}
			if time.Since(began) > time.Minute {
				t.Fatal("no replica within a minute")
			}
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took < 3900*time.Millisecond || took > 15*time.Second {
			t.Errorf("4 MiB at 1 MiB/s took %s", took)
		}
		w.Wait(time.Minute, "a learner", func() bool { _, l := voterNodes(w.Cluster, w.s); return l == 1 })
		close(sub.Propose())
		<-done
		if n := <-read; n != 300+sent {
			t.Errorf("%d changes delivered of %d", n, 300+sent)
		}
	})
}
