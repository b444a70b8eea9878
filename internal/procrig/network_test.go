package procrig

import (
	"testing"
	"time"

	"github.com/copycat-replication/copycat/internal/netproxy"
)

// hold keeps a fault up for a time of its own, and watches meanwhile that the
// subscriptions go on. An open-ended wait on a condition would end the fault as
// soon as nothing is wrong any more.
func hold(r *Rig, d time.Duration, subs ...*Subscription) {
	for until := time.Now().Add(d); time.Now().Before(until); {
		r.More(20, subs...)
	}
}

// TestStopProcess stops the leader with SIGSTOP for half a minute, and then a
// follower for longer than an election: connections to it stay open and say nothing. The others
// go on; what wakes up finds itself deposed, and loses nothing.
func TestStopProcess(t *testing.T) {
	r, s, subs := begin(t, Options{})
	for round := range pick(2, 6) {
		victim, stopped := r.Leader(s), 30*time.Second
		if round%2 == 1 {
			victim, stopped = r.Others(victim)[r.Random.IntN(2)], pick(5*time.Second, stopped)
		}
		victim.Stop()
		hold(r, stopped, of(subs, r.Others(victim)...)...)
		victim.Continue()
		r.More(100, subs...)
	}
	finish(t, r)
}

// TestPartitionLeader cuts the leader off from everybody, both ways: the
// majority elects another one and goes on; the old one delivers nothing more
// until it is back, and then what the others have.
func TestPartitionLeader(t *testing.T) {
	r, s, subs := begin(t, Options{})
	for range pick(2, 20) {
		victim := r.Leader(s)
		mended := r.Fault("node %d, the leader, is cut off", victim.Number)
		r.Net.Isolate(netproxy.Node(victim.Number))
		rest := of(subs, r.Others(victim)...)
		r.Leader(s, victim)
		hold(r, pick(3*time.Second, 20*time.Second), rest...)
		own := of(subs, victim)[0]
		before, err := own.State()
		if err != nil {
			t.Fatal(err)
		}
		r.More(100, rest...)
		after, err := own.State()
		if err != nil {
			t.Fatal(err)
		}
		if after.Len != before.Len {
			t.Errorf("node %d was delivered %d commits while it was cut off", victim.Number, after.Len-before.Len)
		}
		r.Net.Heal()
		mended()
		r.More(100, subs...)
	}
	finish(t, r)
}

// TestPartitionShapes goes through the other shapes of three nodes: everybody
// alone (nothing goes on), a bridge (two nodes see a third one, not each other),
// a ring of one-way links.
func TestPartitionShapes(t *testing.T) {
	r, s, subs := begin(t, Options{})
	for range pick(1, 10) {
		r.Leader(s)
		mended := r.Fault("everybody alone")
		r.Net.Partition([]netproxy.Node{1}, []netproxy.Node{2}, []netproxy.Node{3})
		r.Wait(2*time.Minute, "no leader", func() (bool, string) {
			for _, n := range r.running() {
				st, err := n.Status()
				if err != nil {
					return false, err.Error()
				}
				if x, _ := st.Structure(s.ID); x.Leader != "" {
					return false, "a leader"
				}
			}
			return true, ""
		})
		r.Net.Heal()
		mended()
		r.More(50, subs...)

		middle := r.Nodes[r.Random.IntN(3)]
		ends := r.Others(middle)
		mended = r.Fault("nodes %d and %d see only node %d", ends[0].Number, ends[1].Number, middle.Number)
		r.Net.Partition(
			[]netproxy.Node{netproxy.Node(middle.Number), netproxy.Node(ends[0].Number)},
			[]netproxy.Node{netproxy.Node(middle.Number), netproxy.Node(ends[1].Number)},
		)
		hold(r, pick(3*time.Second, 20*time.Second), of(subs, middle)...)
		r.Net.Heal()
		mended()
		r.More(50, subs...)

		mended = r.Fault("a ring of one-way links")
		r.Net.Cut(1, 2)
		r.Net.Cut(2, 3)
		r.Net.Cut(3, 1)
		r.Net.Reset(1, 2)
		time.Sleep(pick(3*time.Second, 15*time.Second)) // the fault's own time: nothing has to go on in it
		r.Net.Heal()
		mended()
		r.More(50, subs...)
	}
	finish(t, r)
}

// TestOneWayCut lets a leader speak and not hear, and then a leader hear and
// not speak. The first is the harder one: its heartbeats go on, and only
// CheckQuorum makes it give up.
func TestOneWayCut(t *testing.T) {
	r, s, subs := begin(t, Options{})
	for range pick(1, 10) {
		for _, deaf := range []bool{true, false} {
			victim := r.Leader(s)
			what := "is not heard"
			if deaf {
				what = "hears nobody"
			}
			mended := r.Fault("node %d, the leader, %s", victim.Number, what)
			for _, o := range r.Others(victim) {
				from, to := netproxy.Node(victim.Number), netproxy.Node(o.Number)
				if deaf {
					from, to = to, from
				}
				r.Net.Cut(from, to)
			}
			r.Leader(s, victim)
			r.More(50, of(subs, r.Others(victim)...)...)
			r.Net.Heal()
			mended()
			r.More(50, subs...)
		}
	}
	finish(t, r)
}

// TestFlappingLink runs over a slow, lossy network on which links come and go,
// and connections are reset.
func TestFlappingLink(t *testing.T) {
	r, _, subs := begin(t, Options{Link: netproxy.Link{
		Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.05, Duplicate: 0.05, Rate: 20 << 20,
	}})
	mended := r.Fault("flapping links")
	for until := time.Now().Add(pick(6*time.Second, 5*time.Minute)); time.Now().Before(until); {
		a := netproxy.Node(1 + r.Random.IntN(3))
		b := 1 + (a+netproxy.Node(r.Random.IntN(2)))%3
		switch r.Random.IntN(4) {
		case 0:
			r.Net.Reset(a, b)
		case 1:
			r.Net.Cut(a, b)
		default:
			r.Net.Partition([]netproxy.Node{a}, []netproxy.Node{b})
		}
		time.Sleep(time.Duration(r.Random.IntN(int(900 * time.Millisecond)))) // the flapping itself
		r.Net.Heal()
		time.Sleep(time.Duration(r.Random.IntN(int(300 * time.Millisecond))))
	}
	r.Net.Heal()
	mended()
	r.More(50, subs...)
	finish(t, r)
}
