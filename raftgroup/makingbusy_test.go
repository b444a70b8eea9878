package raftgroup_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/raftgroup"
)

// TestMakingBesideChanges makes a snapshot of 8 MiB at 1 MiB/s while changes are
// committed: they go on, nobody takes the consumer that waits meanwhile for one
// that does not answer, and a host that closes in the midst of it does not wait for it.
func TestMakingBesideChanges(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWard(t, 53, 1, 1)
			tune := w.Tune
			w.StopAll()
			w.Tune = func(cfg *raftgroup.Config) {
				tune(cfg)
				cfg.SnapshotBandwidth = 1 << 20
			}
			w.Nodes[0].Start()
			w.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(w.Cluster, w.s); return ok })
			provided := 0
			provider := func() ([]byte, error) {
				if provided++; provided == 1 {
					return nil, nil // the base
				}
				return make([]byte, 8<<20), nil
			}
			sub, err := w.Nodes[0].Host.Subscribe(raftgroup.SubscriptionConfig{Structure: w.s, Provider: provider, ConsumerPatience: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for err := range sub.Errors() {
					if errors.Is(err, raftgroup.ErrSlowConsumer) || !cut {
						t.Error(err)
					}
				}
			}()
			made := make(chan time.Duration, 10)
			read := make(chan struct{})
			go func() {
				defer close(read)
				for p := range sub.Commits() {
					if p != nil {
						continue
					}
					began := time.Now()
					if _, err := sub.Consume(); err != nil {
						t.Error(err)
					}
					made <- time.Since(began)
				}
			}()
			deadline := time.Now().Add(time.Minute)
			var took time.Duration
			for sent := 0; took < 4*time.Second; sent++ {
				if time.Now().After(deadline) {
					t.Fatal("no snapshot within a minute")
				}
				if cut && sent == 500 { // 200 are needed for one that is due
					break
				}
				select {
				case sub.Propose() <- []byte("x"):
				case <-time.After(time.Second):
					t.Fatal("no change is taken while a snapshot is made")
				}
				select {
				case took = <-made:
				case <-time.After(10 * time.Millisecond):
				}
			}
			if cut {
				began := time.Now()
				w.Nodes[0].Stop()
				if took := time.Since(began); took > time.Second {
					t.Errorf("closing took %v", took)
				}
			} else {
				if took > 9*time.Second {
					t.Errorf("8 MiB at 1 MiB/s took %v", took)
				}
				close(sub.Propose())
			}
			<-read
			<-done
		})
	}
}
