package procrig

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNewerMinor takes a cluster to the next minor version node by node, the
// leader last, and one node back: nothing stops, and each directory is read by
// both.
func TestNewerMinor(t *testing.T) {
	binary := minor.must(t)
	r, s, subs := begin(t, Options{SnapshotEntries: 100})
	change := func(n *Node, binary string) {
		id := n.ID
		n.Shutdown()
		n.Binary = binary
		r.More(20, of(subs, r.Others(n)...)...)
		subs = append(of(subs, r.Others(n)...), back(r, n, s))
		if n.ID != id {
			t.Errorf("node %s is %s after the change of version", id, n.ID)
		}
		r.More(120, subs...) // a snapshot at least
	}
	leader := r.Leader(s)
	first, second := r.Others(leader)[0], r.Others(leader)[1]
	change(first, binary)
	change(second, binary)
	change(first, "") // back, onto what the newer version has written
	change(leader, binary)
	finish(t, r)
}

// TestNewerMajor starts the next major version beside two nodes of the present
// one, on a new directory and on that of a stopped node: it is refused, it says
// why, the others go on, and the present version goes on from the directory.
func TestNewerMajor(t *testing.T) {
	binary := major.must(t)
	r, s, subs := begin(t, Options{})
	victim := r.Leader(s)
	rest := of(subs, r.Others(victim)...)
	id, dir := victim.ID, victim.Dir
	victim.Shutdown()
	r.More(20, rest...)

	// A new node: it finds no cluster, and says which version it met.
	victim.Binary, victim.JoinTimeout, victim.Dir = binary, 5*time.Second, filepath.Join(r.dir, "newer")
	var err error
	var remote *RemoteError
	for range 10 {
		err = victim.TryStart()
		if !errors.As(err, &remote) || remote.Is != NoCluster {
			break
		}
		// On a busy machine nobody may have answered in time at all.
	}
	if !errors.As(err, &remote) || remote.Is != OtherVersion || !strings.Contains(remote.Text, "version 1") || !strings.Contains(remote.Text, "knows 2") {
		t.Fatalf("a new node of the next major version: %v", err)
	}
	t.Logf("a new node: %v", err)
	r.More(20, rest...)

	// On a directory that has its cluster it starts, alone.
	victim.Dir = dir
	if err := victim.TryStart(); err != nil {
		t.Fatal(err)
	}
	r.Wait(2*time.Minute, "it says which version it met", func() (bool, string) {
		text, err := os.ReadFile(victim.process.log.Name())
		return strings.Contains(string(text), "version"), errors.Join(err, errors.New(string(text))).Error()
	})
	r.More(50, rest...)
	st, err := victim.Status()
	if err != nil {
		t.Fatal(err)
	}
	if x, _ := st.Structure(s.ID); st.Alive != 1 || x.Leader != "" {
		t.Errorf("it takes %d nodes for alive, and %q for the leader", st.Alive, x.Leader)
	}
	for _, n := range r.Others(victim) {
		st, err := n.Status()
		if err != nil {
			t.Fatal(err)
		}
		if st.Alive > 2 {
			t.Errorf("node %d takes %d nodes for alive", n.Number, st.Alive)
		}
	}
	text, err := os.ReadFile(victim.process.log.Name())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "version") {
			t.Logf("it logs: %s", line)
		}
	}
	victim.Shutdown()

	victim.Binary, victim.JoinTimeout = "", 0
	subs = append(rest, back(r, victim, s))
	if victim.ID != id {
		t.Errorf("node %s is %s now", id, victim.ID)
	}
	r.More(50, subs...)
	finish(t, r)
}
