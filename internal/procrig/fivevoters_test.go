package procrig

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/internal/netproxy"
)

// TestPartitionShapesOfFive goes through shapes that need five voters: the
// leader in a minority; a bridge, of which both ends are minorities without it; a
// ring, in which everybody sees a majority and no two see the same one. In each,
// somebody goes on.
func TestPartitionShapesOfFive(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	r := New(t, Options{DataCenters: []string{"dc1", "dc1", "dc2", "dc2", "dc3"}, SnapshotEntries: 300, Seed: newSeed()})
	r.StartAll()
	s := r.Allocate(r.Nodes[0], 5)
	var subs []*Subscription
	for _, n := range r.Nodes {
		subs = append(subs, n.Subscribe(s))
		subs[len(subs)-1].Load(pace)
	}
	r.AwaitVoters(s, 5)
	r.More(20, subs...)
	for range pick(1, 10) {
		for _, shape := range []string{"the leader in a minority of two", "a bridge", "a ring of majorities"} {
			leader := r.Leader(s)
			others := r.Others(leader)
			r.Random.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
			n := numbers(append([]*Node{leader}, others...))
			mended := r.Fault("%s: %v", shape, n)
			switch shape {
			case "the leader in a minority of two":
				r.Net.Partition(n[:2], n[2:])
				r.Leader(s, leader, others[0])
				hold(r, pick(3*time.Second, 20*time.Second), of(subs, others[1:]...)...)
			case "a bridge": // the leader is at one of its ends
				r.Net.Partition([]netproxy.Node{n[0], n[1], n[2]}, []netproxy.Node{n[2], n[3], n[4]})
				holdSomebody(r, pick(3*time.Second, 20*time.Second), subs)
			default:
				r.Net.Partition([]netproxy.Node{n[0], n[1]}, []netproxy.Node{n[1], n[2]}, []netproxy.Node{n[2], n[3]}, []netproxy.Node{n[3], n[4]}, []netproxy.Node{n[4], n[0]})
				holdSomebody(r, pick(3*time.Second, 20*time.Second), subs)
			}
			r.Net.Heal()
			mended()
			r.More(50, subs...)
		}
	}
	finish(t, r)
}

func numbers(nodes []*Node) (out []netproxy.Node) {
	for _, n := range nodes {
		out = append(out, netproxy.Node(n.Number))
	}
	return out
}

// holdSomebody keeps a fault up for a time of its own, in which all the time
// somebody goes on.
func holdSomebody(r *Rig, d time.Duration, subs []*Subscription) {
	r.t.Helper()
	lengths := func() (out []int) {
		for _, sub := range subs {
			st, err := sub.State()
			if err != nil {
				r.t.Fatal(err)
			}
			out = append(out, st.Len)
		}
		return out
	}
	for until := time.Now().Add(d); time.Now().Before(until); {
		before := lengths()
		r.Wait(2*time.Minute, "somebody goes on", func() (bool, string) {
			now := lengths()
			for i := range now {
				if now[i] >= before[i]+20 {
					return true, ""
				}
			}
			return false, fmt.Sprint(slices.Max(now))
		})
	}
}
