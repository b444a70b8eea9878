package procrig

import (
	"cmp"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/internal/netproxy"
)

// TestMixedFaults breaks whatever the seed says, several things at a time, the
// majority too: in the end everything is mended, and the history must hold.
func TestMixedFaults(t *testing.T) {
	r, s, _ := begin(t, Options{SnapshotEntries: 150, Padding: 200 << 10})
	second := r.Structure()
	for _, n := range r.Nodes {
		n.Subscribe(second).Load(2 * pace)
	}
	revive := func(n *Node) {
		n.Start()
		for _, x := range []*Structure{s, second} {
			n.Subscribe(x).Load(pace)
		}
	}
	random := func(d time.Duration) time.Duration { return time.Duration(r.Random.Int64N(int64(d))) }
	for until := time.Now().Add(cmp.Or(*most, pick(8*time.Second, 10*time.Minute))); time.Now().Before(until); {
		n := r.Nodes[r.Random.IntN(len(r.Nodes))]
		at := netproxy.Node(n.Number)
		other := netproxy.Node(r.Others(n)[r.Random.IntN(2)].Number)
		switch r.Random.IntN(8) {
		case 0:
			n.Continue()
			n.Kill()
		case 1:
			if n.Alive() && !n.stopped {
				n.Stop()
			}
		case 2:
			r.Fault("node %d is cut off", at)()
			r.Net.Isolate(at)
		case 3:
			r.Net.Cut(at, other)
		case 4:
			r.Net.Reset(at, other)
		case 5:
			r.Net.Set(at, other, netproxy.Link{Delay: 20 * time.Millisecond, Jitter: 20 * time.Millisecond, Loss: 0.2, Rate: 1 << 20})
		default:
			r.Net.SetAll(netproxy.Link{})
			for _, o := range r.Nodes {
				o.Continue()
				if !o.Alive() {
					revive(o)
				}
			}
		}
		time.Sleep(random(1500 * time.Millisecond)) // the faults' own time
	}
	finish(t, r)
}

// TestShutdownAndUnsubscribe has nodes and subscriptions end in order, again
// and again, while the others go on: everything they had proposed is in the
// order or was reported.
func TestShutdownAndUnsubscribe(t *testing.T) {
	r, s, subs := begin(t, Options{})
	for round := range pick(3, 30) {
		n := r.Nodes[r.Random.IntN(3)]
		mended := r.Fault("node %d ends in order, round %d", n.Number, round)
		rest := of(subs, r.Others(n)...)
		if round%2 == 0 {
			n.Shutdown()
			r.More(20, rest...)
			subs = append(rest, back(r, n, s))
		} else {
			of(subs, n)[0].Unsubscribe()
			r.More(20, rest...)
			again := n.Subscribe(s)
			again.Load(pace)
			r.More(20, again)
			subs = append(rest, again)
		}
		mended()
	}
	report := finish(t, r)
	if report.Stats.Crashes > 0 {
		t.Errorf("%d crashes", report.Stats.Crashes)
	}
}
