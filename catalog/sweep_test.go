package catalog

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestSweepSettlesSomeAtOnce: births that came to nothing have left forty prepared
// replicas, and the catalog takes its time. Sixteen at a time are asked about, no
// more, and when it answers all are gone soon, but for the one that was born.
func TestSweepSettlesSomeAtOnce(t *testing.T) {
	run(t, func(t *testing.T, s *Service, e *fakeEngine) {
		rec, err := s.Create(t.Context(), structure(1), raftgroup.Options{}, alone(1))
		if err != nil {
			t.Fatal(err)
		}
		var token raftgroup.Token
		for won, born := range e.started() {
			token = won
			if born != rec.Incarnation {
				t.Fatalf("started as %s, born as %s", born, rec.Incarnation)
			}
		}
		const left = 40
		e.set(func() {
			e.deaf = true
			// As if nobody had told this node of the birth.
			delete(e.begun, token)
			e.prepared[token] = raftgroup.Genesis{Group: id.Group{Structure: structure(1)}, Members: rec.Members, Token: token}
			for n := range left {
				g := raftgroup.Genesis{Group: id.Group{Structure: structure(uint64(n + 2))}, Members: rec.Members, Token: raftgroup.Token{1: byte(n + 1), 2: 77}}
				e.prepared[g.Token] = g
			}
		})
		held := func() (n int) {
			e.set(func() { n = len(e.held) })
			return n
		}
		for began := time.Now(); held() == 0; time.Sleep(10 * time.Millisecond) {
			if time.Since(began) > time.Minute {
				t.Fatal("nobody asks about what is left")
			}
		}
		synctest.Wait()
		if n := held(); n != 16 {
			t.Errorf("asked about %d at the same time, not 16", n)
		}
		e.set(func() { e.deaf = false })
		began := time.Now()
		for len(e.Prepared()) > 0 {
			if time.Since(began) > 2*s.cfg.Patience {
				t.Fatalf("%d are left", len(e.Prepared()))
			}
			time.Sleep(10 * time.Millisecond)
		}
		if born := e.started(); len(born) != 1 || born[token] != rec.Incarnation {
			t.Errorf("started: %v", born)
		}
	})
}
