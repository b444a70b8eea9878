package procrig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLeaveUnderLoad takes the node that leads most out of a loaded cluster,
// itself writing: without time for it, it stays, and says what is still there;
// with time, its process ends with success, what it had is elsewhere before
// that, no structure pauses for more than two election time-outs, and nothing is
// lost. With -long: six nodes, fifty structures, and two nodes of one data
// center, one after the other.
func TestLeaveUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	r := New(t, Options{
		DataCenters:     pick([]string{"dc1", "dc2", "dc3", "dc3"}, []string{"dc1", "dc2", "dc3", "dc1", "dc2", "dc3"}),
		SnapshotEntries: 200, Padding: pick(0, 1<<18), Seed: newSeed(),
		ReplaceAfter: "1h", // nothing that is whole within minutes is so by healing
	})
	r.StartAll()
	write := func(n *Node, s *Structure) *Subscription {
		sub := n.Subscribe(s)
		sub.Load(pick(4*pace, 40*pace))
		return sub
	}
	for i := range pick(6, 50) {
		s := r.Structure()
		write(r.Nodes[i%len(r.Nodes)], s)
		write(r.Nodes[(i+1)%len(r.Nodes)], s)
	}
	r.Wait(4*time.Minute, "three voters of each", func() (bool, string) { return whole(r) })
	r.More(20, r.subscriptions()...)
	began := time.Now()
	first := leadsMost(r)
	leaves := []*Node{first}
	for _, n := range r.Others(first) {
		if *long && n.DataCenter == first.DataCenter {
			leaves = append(leaves, n)
		}
	}
	for i, n := range leaves {
		if i == 0 {
			staysWithoutTime(t, r, n, write)
		}
		leaveUnderLoad(t, r, n)
	}
	r.More(20, r.subscriptions()...)
	ended := time.Now()
	finish(t, r)
	noLongPause(t, r, began, ended)
}

// leadsMost finds the node that leads most of the structures.
func leadsMost(r *Rig) (most *Node) {
	r.t.Helper()
	best := -1
	for _, n := range r.Nodes {
		st, err := n.Status()
		if err != nil {
			r.t.Fatal(err)
		}
		leads := 0
		for _, x := range st.Structures {
			if x.Role == "leader" {
				leads++
			}
		}
		if leads > best {
			most, best = n, leads
		}
	}
	r.t.Logf("node %d leads %d groups", most.Number, best)
	return most
}

// staysWithoutTime has a node leave within no time at all: it says what is
// still there, and goes on; its subscriptions have ended, and new ones do.
func staysWithoutTime(t *testing.T, r *Rig, n *Node, write func(*Node, *Structure) *Subscription) {
	t.Helper()
	before := n.subs
	err := n.Leave(time.Millisecond)
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.Is != NotLeft || !strings.Contains(remote.Text, "replicas are still here") {
		t.Fatalf("a node that had no time to leave: %v", err)
	}
	t.Logf("without time: %v", err)
	st, err := n.Status()
	if err != nil {
		t.Fatal(err)
	}
	if st.Leaving || len(st.Structures) == 0 {
		t.Errorf("after it: leaving %t, %d replicas", st.Leaving, len(st.Structures))
	}
	var again []*Subscription
	for _, sub := range before {
		if state, err := sub.State(); err != nil || !state.Ended {
			t.Errorf("a subscription of a node that wanted to leave: %+v, %v", state, err)
		}
		again = append(again, write(n, sub.Of))
	}
	r.More(20, again...)
}

func leaveUnderLoad(t *testing.T, r *Rig, n *Node) {
	t.Helper()
	gone, held := n.ID, 0
	st, err := n.Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range st.Structures {
		if x.Members[x.ReplicaID] {
			held++
		}
	}
	began := time.Now()
	if err := n.Leave(4 * time.Minute); err != nil {
		t.Fatal(err)
	}
	t.Logf("node %d left within %s, with %d voters on it", n.Number, time.Since(began).Round(time.Millisecond), held)
	if held == 0 {
		t.Error("it had nothing")
	}
	// Not after a grace. At a single moment one of them may be without a leader.
	r.Wait(2*time.Minute, "all are whole without it, the catalog too", func() (bool, string) {
		if ok, why := whole(r, gone); !ok {
			return false, why
		}
		shown, err := leaders(r)
		if err != nil {
			return false, err.Error()
		}
		return len(shown["catalog"]) == 1 && !shown["catalog"][0].isOn([]string{gone}), fmt.Sprintf("%+v", shown["catalog"])
	})
	for _, text := range []string{"leaving: the replicas here move to other nodes", "no replica is left here: leaving the cluster"} {
		if !strings.Contains(n.Log(), text) {
			t.Errorf("its log does not say %q", text)
		}
	}
	files, err := filepath.Glob(filepath.Join(n.Dir, "snapshots", "*", "*"))
	if err != nil || len(files) > 0 {
		t.Errorf("it has left behind %v, %v", files, err)
	}
	r.Wait(2*time.Minute, "the others know that it is gone", func() (bool, string) {
		for _, o := range r.running() {
			st, err := o.Status()
			if err != nil {
				return false, err.Error()
			}
			if st.Alive != len(r.running()) {
				return false, fmt.Sprintf("node %d sees %d", o.Number, st.Alive)
			}
		}
		return true, ""
	})
	if _, err := os.Stat(n.Dir); err != nil {
		t.Error(err)
	}
}
