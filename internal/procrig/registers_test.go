package procrig

import (
	"testing"
	"time"

	"github.com/copycat-replication/copycat/internal/history/register"
	"github.com/copycat-replication/copycat/internal/netproxy"
)

// registerPatience is how long the search for a linear order of one key's
// operations may take; without an answer by then the test fails.
const registerPatience = 2 * time.Minute

// TestRegisters puts and reads registers while nodes are killed and stopped,
// and the leader is cut off both ways and one way: beside all else that a
// history is checked for, porcupine must find an order of each register's
// operations that fits their times.
func TestRegisters(t *testing.T) {
	r, s, subs := begin(t, Options{Registers: true, SnapshotEntries: 300})
	faults := []func(victim *Node){
		func(victim *Node) {
			victim.Kill()
			subs = of(subs, r.Others(victim)...)
			time.Sleep(r.about(700 * time.Millisecond)) // the fault's own time
			subs = append(subs, back(r, victim, s))
		},
		func(victim *Node) {
			victim.Stop()
			time.Sleep(r.about(3 * time.Second))
			victim.Continue()
		},
		func(victim *Node) {
			r.Net.Isolate(netproxy.Node(victim.Number))
			time.Sleep(r.about(3 * time.Second))
		},
		func(victim *Node) { // it hears nobody, and is heard
			for _, o := range r.Others(victim) {
				r.Net.Cut(netproxy.Node(o.Number), netproxy.Node(victim.Number))
			}
			time.Sleep(r.about(3 * time.Second))
		},
	}
	for round := range pick(1, 12) {
		for _, i := range r.Random.Perm(len(faults)) {
			victim := r.Leader(s)
			if r.Random.IntN(3) == 0 {
				victim = r.Nodes[r.Random.IntN(len(r.Nodes))]
			}
			mended := r.Fault("round %d: fault %d on node %d", round, i, victim.Number)
			faults[i](victim)
			r.Net.Heal()
			mended()
			r.More(20, subs...)
		}
	}
	r.More(400, subs...) // enough to say something, also where the faults left time for few
	report := finish(t, r)
	h, err := r.history()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	n, err := register.Check(h, s.number, report.Order(s.number), registerPatience)
	if err != nil {
		t.Errorf("seed %d: %v", r.opt.Seed, err)
	}
	if n < 300 || report.Stats.Reads < 100 {
		t.Errorf("only %d operations, %d of them reads: too few to say anything", n, report.Stats.Reads)
	}
	t.Logf("%d operations on registers, %d of them reads, in an order that fits; found in %s", n, report.Stats.Reads, time.Since(began).Round(time.Millisecond))
}

// about draws a time around d, between half of it and one and a half.
func (r *Rig) about(d time.Duration) time.Duration {
	return d/2 + time.Duration(r.Random.Int64N(int64(d)))
}
