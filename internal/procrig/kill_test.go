package procrig

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/internal/netproxy"
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
// a while, and kills nodes while they write one of their own or take one over
// from another: in the middle of the file, since the process is stopped first.
// Other kills come at a seeded place in the log, whatever goes on there.
func TestKillDuringSnapshot(t *testing.T) {
	r, s, subs := begin(t, Options{SnapshotEntries: 25, Padding: 2 << 20})
	for round := range pick(6, 30) {
		victim := r.Leader(s) // its own session is asked first
		if r.Random.IntN(3) == 0 {
			victim = r.Nodes[r.Random.IntN(len(r.Nodes))]
		}
		if round%3 < 2 {
			file := stopAmidSnapshot(r, victim)
			r.Fault("node %d is killed while it writes %s", victim.Number, file)()
		} else {
			r.More(1+r.Random.IntN(50), of(subs, victim)...)
			time.Sleep(r.about(20 * time.Millisecond)) // the fault's own time
		}
		victim.Kill()
		r.More(20, of(subs, r.Others(victim)...)...)
		subs = append(of(subs, r.Others(victim)...), back(r, victim, s))
	}
	report := finish(t, r)
	if report.Stats.Made == 0 || report.Stats.Loads == 0 {
		t.Errorf("no snapshot was made or none was loaded: %+v", report.Stats)
	}
}

// stopAmidSnapshot stops the node's process, with SIGSTOP, when there is half a
// snapshot in its directory, and returns which.
func stopAmidSnapshot(r *Rig, n *Node) (file string) {
	r.t.Helper()
	half := func() string {
		made, err := filepath.Glob(filepath.Join(n.Dir, "snapshots", "*", "*.tmp"))
		if err != nil {
			r.t.Fatal(err)
		}
		fetched, err := filepath.Glob(filepath.Join(n.Dir, "snapshots", "*", "*.part"))
		if err != nil {
			r.t.Fatal(err)
		}
		for _, name := range append(made, fetched...) {
			return filepath.Base(name)
		}
		return ""
	}
	tick := time.NewTicker(time.Millisecond) // such a file is there for some milliseconds
	defer tick.Stop()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		<-tick.C
		if half() == "" {
			continue
		}
		n.signal(syscall.SIGSTOP)
		n.stopped = true
		if file = half(); file != "" {
			return file
		}
		n.signal(syscall.SIGCONT)
		n.stopped = false
	}
	r.dump()
	r.t.Fatalf("node %d: no snapshot was written within two minutes", n.Number)
	return ""
}

// TestKillDuringMembershipChange begins with one node that writes; two more
// come, and the structure grows to three voters. During that one of the nodes is
// killed, and comes back: at a seeded time; or amid joint consensus, when the
// membership is the old one and the new one at the same time.
func TestKillDuringMembershipChange(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	first := newSeed()
	for round := range uint64(pick(3, 20)) {
		killWhileGrowing(t, first+round, round%2 == 0)
		if t.Failed() {
			return
		}
	}
}

func killWhileGrowing(t *testing.T, seed uint64, joint bool) {
	opt := Options{Seed: seed, SnapshotEntries: 100}
	if joint {
		// A round trip of 300 ms lies between the two halves of the change, so that
		// there is time to hit it.
		opt.Link = netproxy.Link{Delay: 150 * time.Millisecond}
	}
	r := New(t, opt)
	lone := r.Nodes[0]
	lone.Start()
	s := r.Structure()
	sub := lone.Subscribe(s)
	sub.Load(pace)
	r.More(150, sub) // with a snapshot, from which the others are seeded
	r.Nodes[1].Start()
	r.Nodes[2].Start()
	victim := r.Nodes[r.Random.IntN(3)]
	if joint {
		r.Wait(2*time.Minute, "joint consensus", func() (bool, string) { return inJointConsensus(lone, s), "the membership is one" })
	} else {
		awaitGrowth(r, lone, s)
	}
	victim.Kill()
	amid := inJointConsensus(lone, s)
	t.Logf("seed %d: killed node %d; amid joint consensus: %t", seed, victim.Number, amid)
	if victim == lone && joint && !amid {
		t.Errorf("seed %d: the kill came too late", seed)
	}
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

// awaitGrowth waits for one of the steps in which a structure grows to three
// voters, and then for a moment.
func awaitGrowth(r *Rig, lone *Node, s *Structure) {
	r.t.Helper()
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
}

// inJointConsensus reports whether the node's log says that the last change of
// the structure's membership is half done.
func inJointConsensus(n *Node, s *Structure) (joint bool) {
	for line := range strings.Lines(n.Log()) {
		if strings.Contains(line, "membership changed") && strings.Contains(line, s.ID) {
			joint = !strings.Contains(line, "outgoing=[]")
		}
	}
	return joint
}

// TestKillEverybody kills all processes at once, as a power failure of the
// whole cluster would: when they are back they have all that anybody was delivered.
func TestKillEverybody(t *testing.T) {
	r, s, subs := begin(t, Options{SnapshotEntries: 200})
	for range pick(2, 20) {
		r.More(50+r.Random.IntN(200), subs...)
		for _, n := range r.Nodes {
			n.Stop() // all at the same time, as good as
		}
		for _, n := range r.Nodes {
			n.Kill()
		}
		subs = nil
		for _, i := range r.Random.Perm(len(r.Nodes)) {
			n := r.Nodes[i]
			n.Start()
			sub := n.Subscribe(s)
			sub.Load(pace)
			subs = append(subs, sub)
		}
		r.More(50, subs...)
	}
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
