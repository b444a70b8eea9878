package procrig

import (
	"testing"
	"time"
)

// TestKillFollower kills followers with SIGKILL while everybody writes: the
// others do not stop, and it comes back with all that it missed.
func TestKillFollower(t *testing.T) {
	r, s, subs := begin(t, Options{})
	for range pick(2, 30) {
		leader := r.Leader(s)
		followers := r.Others(leader)
		victim := followers[r.Random.IntN(len(followers))]
		victim.Kill()
		r.More(100, of(subs, r.Others(victim)...)...)
		subs = append(of(subs, r.Others(victim)...), back(r, victim, s))
	}
	finish(t, r)
}

// TestKillLeader kills the leader: the others elect a new one and go on. There
// are two subscriptions on each node, and a second structure.
func TestKillLeader(t *testing.T) {
	r, s, subs := begin(t, Options{})
	second := r.Structure()
	also := func(n *Node) {
		n.Subscribe(s).Load(3 * pace)
		n.Subscribe(second).Load(3 * pace)
	}
	for _, n := range r.Nodes {
		also(n)
	}
	for range pick(2, 30) {
		victim := r.Leader(s)
		victim.Kill()
		r.More(100, of(subs, r.Others(victim)...)...)
		r.Leader(s, victim)
		subs = append(of(subs, r.Others(victim)...), back(r, victim, s))
		also(victim)
	}
	finish(t, r)
}

// TestKillDuringSnapshot has snapshots made all the time, large enough to take
// a while, and kills the node whose turn it is to make them, or another one, at
// seeded times.
func TestKillDuringSnapshot(t *testing.T) {
	r, s, subs := begin(t, Options{SnapshotEntries: 25, Padding: 2 << 20})
	for range pick(4, 20) {
		victim := r.Leader(s) // its own session is asked first
		if r.Random.IntN(3) == 0 {
			victim = r.Nodes[r.Random.IntN(len(r.Nodes))]
		}
		at, err := of(subs, victim)[0].State()
		if err != nil {
			t.Fatal(err)
		}
		// A place in the log first, then a moment: both differ with the seed.
		r.More(1+r.Random.IntN(50), of(subs, victim)...)
		time.Sleep(time.Duration(r.Random.IntN(int(40 * time.Millisecond)))) // the fault's own time
		victim.Kill()
		r.More(20, of(subs, r.Others(victim)...)...)
		t.Logf("node %d was killed after %d commits", victim.Number, at.Len)
		subs = append(of(subs, r.Others(victim)...), back(r, victim, s))
	}
	report := finish(t, r)
	if report.Stats.Made == 0 || report.Stats.Loads == 0 {
		t.Errorf("no snapshot was made or none was loaded: %+v", report.Stats)
	}
}

// TestKillDuringMembershipChange begins with one node that writes; two more
// come, and the structure grows to three voters. At a seeded time during that
// one of the nodes is killed, and comes back.
func TestKillDuringMembershipChange(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	first := newSeed()
	for round := range uint64(pick(2, 20)) {
		killWhileGrowing(t, first+round)
		if t.Failed() {
			return
		}
	}
}

func killWhileGrowing(t *testing.T, seed uint64) {
	r := New(t, Options{Seed: seed, SnapshotEntries: 100})
	lone := r.Nodes[0]
	lone.Start()
	s := r.Structure()
	sub := lone.Subscribe(s)
	sub.Load(pace)
	r.More(150, sub) // with a snapshot, from which the others are seeded
	r.Nodes[1].Start()
	r.Nodes[2].Start()
	victim := r.Nodes[r.Random.IntN(3)]
	stage := r.Random.IntN(3)
	r.Wait(2*time.Minute, "the membership change", func() (bool, string) {
		st, err := lone.Status()
		if err != nil {
			return false, err.Error()
		}
		x, ok := st.Structure(s.ID)
		switch {
		case !ok:
			return false, "no replica"
		case len(x.Voters) > 1:
			return true, ""
		case stage == 0:
			return st.Alive > 1, "nobody there"
		case stage == 1:
			return len(x.Learners) > 0, "no learner"
		}
		return len(x.Learners) > 1, "not two learners"
	})
	time.Sleep(time.Duration(r.Random.IntN(int(600 * time.Millisecond)))) // the fault's own time: duties run twice a second
	t.Logf("seed %d: killing node %d at stage %d", seed, victim.Number, stage)
	victim.Kill()
	victim.Start()
	subs := []*Subscription{}
	for _, n := range r.Nodes {
		if n == lone && n != victim {
			subs = append(subs, sub)
			continue
		}
		subs = append(subs, n.Subscribe(s))
	}
	r.AwaitVoters(s, 3)
	for _, sub := range subs {
		sub.Load(pace)
	}
	r.More(50, subs...)
	finish(t, r)
}

// TestKillDataCenter kills all nodes of one data center at once, where that is
// no majority: the other ones go on.
func TestKillDataCenter(t *testing.T) {
	r, s, subs := begin(t, Options{DataCenters: []string{"dc1", "dc1", "dc2", "dc2", "dc3"}})
	for _, dc := range pick([]string{r.Leader(s).DataCenter}, []string{"dc1", "dc2", "dc3", "dc1", "dc2"}) {
		var lost []*Node
		for _, n := range r.Nodes {
			if n.DataCenter == dc {
				lost = append(lost, n)
			}
		}
		for _, n := range lost {
			n.Kill()
		}
		rest := of(subs, r.Others(lost...)...)
		r.More(100, rest...)
		subs = rest
		for _, n := range lost {
			subs = append(subs, back(r, n, s))
		}
	}
	finish(t, r)
}
