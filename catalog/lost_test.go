package catalog_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestNothingLeft loses the only replica of a structure. It can be neither deleted
// nor created anew, until an operator gives it up; not before it is lost. The node
// comes back after all: the catalog has had the structure created anew, and what
// the node leads goes.
func TestNothingLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, 1)
		defer w.end()
		w.found(3)
		s := rig.Structure(5)
		if err := w.bornOn(1, s, 3); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
		defer cancel()
		rec, held, err := w.on(0).svc.Holdings(ctx, s)
		if err != nil || len(held) != 1 || held[0].Life != rec.Incarnation {
			t.Fatalf("%+v, held %+v, %v", rec, held, err)
		}
		old := rec.Group()
		if err := w.on(0).svc.GiveUpLost(ctx, s, old.Incarnation.Birth); !errors.Is(err, catalog.ErrHeld) {
			t.Fatalf("given up while it lives: %v", err)
		}
		w.stop(3)
		time.Sleep(time.Minute)
		short, done := context.WithTimeout(ctx, time.Minute)
		defer done()
		if err := w.on(0).svc.DeleteStructure(short, s); err == nil {
			t.Fatal("deleted without a quorum")
		}
		if _, held, err = w.on(0).svc.Holdings(ctx, s); err != nil || len(held) != 1 || held[0].Err == nil {
			t.Fatalf("held %+v, %v", held, err)
		}
		if err := w.on(0).svc.GiveUpLost(ctx, s, old.Incarnation.Birth+1); !errors.Is(err, catalog.ErrUnknown) {
			t.Errorf("another birth was given up: %v", err)
		}
		for range 2 {
			if err := w.on(0).svc.GiveUpLost(ctx, s, old.Incarnation.Birth); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.on(0).svc.Confirm(ctx, s); !errors.Is(err, catalog.ErrDeleted) {
			t.Fatalf("the catalog says %v", err)
		}
		next, err := w.on(0).svc.Create(ctx, s, raftgroup.Options{Voters: 1}, func() []id.Node { return []id.Node{w.c.Nodes[0].ID} })
		if err != nil {
			t.Fatal(err)
		}
		w.c.Nodes[3].Start()
		w.gone(old)
		if !w.leads(next.Group()) {
			t.Errorf("%s is not led", next.Group())
		}
	})
}

// TestNothingLeftButAStoppedReplica: the disk of the only replica's node fails. What
// is on it may be read again when the node has been started anew: it is not given up.
func TestNothingLeftButAStoppedReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, 1)
		defer w.end()
		w.found(3)
		s := rig.Structure(5)
		if err := w.bornOn(1, s, 3); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
		defer cancel()
		n := w.c.Nodes[3]
		n.FS.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
			if op == vfs.OpSync {
				return errors.New("a test fails a sync")
			}
			return nil
		})
		if _, err := n.Host.Subscribe(raftgroup.SubscriptionConfig{Structure: s, Provider: func() ([]byte, error) { return nil, nil }}); err != nil {
			t.Fatal(err)
		}
		g, _ := n.Host.Group(s)
		w.c.Wait(time.Minute, "the replica to stop", func() bool { return g.Status().Failed })
		rec, held, err := w.on(0).svc.Holdings(ctx, s)
		if err != nil || len(held) != 1 || held[0].Life != rec.Incarnation {
			t.Errorf("%+v, held %+v, %v", rec, held, err)
		}
		if err := w.on(0).svc.GiveUpLost(ctx, s, rec.Incarnation.Birth); !errors.Is(err, catalog.ErrHeld) {
			t.Errorf("given up: %v", err)
		}
		n.FS.SetFault(nil)
	})
}
