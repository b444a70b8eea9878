package procrig

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestLeaderWithADeadDisk has the syncs of the leader's disk fail while its
// network works: it says so and stops, another one leads, nobody is misled by
// it; started again on a disk that works, it is what it was.
func TestLeaderWithADeadDisk(t *testing.T) {
	binary := minor.must(t)
	dir := t.TempDir()
	fails := func(n *Node) string { return filepath.Join(dir, fmt.Sprint("fails", n.Number)) }
	r, s, subs := begin(t, Options{Complaints: []string{"log has failed", "replica stopped"}}, func(r *Rig) {
		for _, n := range r.Nodes {
			n.Binary, n.Env = binary, []string{failSyncVariable + "=" + fails(n)}
		}
	})
	victim := r.Leader(s)
	rest := of(subs, r.Others(victim)...)
	mended := r.Fault("the disk of node %d does not sync any more", victim.Number)
	if err := os.WriteFile(fails(victim), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.Wait(2*time.Minute, "it says so", func() (bool, string) {
		st, err := victim.Status()
		if err != nil {
			return false, err.Error()
		}
		x, _ := st.Structure(s.ID)
		return st.StorageIs == StorageFailed && x.Role == "stopped" && x.LastError != "", st.Storage
	})
	r.Leader(s, victim)
	own := of(subs, victim)[0]
	before, err := own.State()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(before.Notices, func(e string) bool { return strings.Contains(e, s.ID) && strings.Contains(e, "replica stopped") }) {
		t.Errorf("its user was told: %q", before.Notices)
	}
	r.More(100, rest...)
	after, err := own.State()
	if err != nil {
		t.Fatal(err)
	}
	if after.Len != before.Len {
		t.Errorf("it delivered %d more commits", after.Len-before.Len)
	}
	victim.Kill()
	if err := os.Remove(fails(victim)); err != nil {
		t.Fatal(err)
	}
	mended()
	subs = append(rest, back(r, victim, s))
	r.More(50, subs...)
	finish(t, r)
}

// TestFlippedBitInTheLog flips one bit in a sealed segment of a stopped node.
// When it starts it says which replicas it sets aside, and where the damage is;
// it gets new replicas from their groups, which vote in the end; the other nodes do
// not notice.
func TestFlippedBitInTheLog(t *testing.T) {
	r, s, subs := begin(t, Options{ReplaceAfter: "3s", Complaints: []string{"wal: damage", "set aside"}})
	second := r.Structure()
	for _, n := range r.Nodes {
		n.Subscribe(second).Load(pace)
	}
	victim := r.Others(r.Leader(s))[0]
	rest := of(subs, r.Others(victim)...)
	r.More(200, subs...)
	st, err := victim.Status()
	if err != nil {
		t.Fatal(err)
	}
	old, _ := st.Structure(s.ID)
	other, _ := st.Structure(second.ID)
	victim.Shutdown() // seals the segment
	name, offset := flip(t, victim)
	r.Fault("bit flipped on node %d, in %s at %d", victim.Number, name, offset)()
	r.More(50, rest...)
	victim.Start()
	if st, err = victim.Status(); err != nil {
		t.Fatal(err)
	}
	if len(st.SetAside) == 0 {
		t.Error("nothing is set aside")
	}
	for _, a := range st.SetAside {
		t.Logf("set aside: %s", a)
		if !strings.Contains(a, name) {
			t.Errorf("this does not name %s: %s", name, a)
		}
	}
	aside := slices.ContainsFunc(st.SetAside, func(a string) bool { return strings.HasPrefix(a, s.ID) })
	fresh := victim.Subscribe(s)
	victim.Subscribe(second).Load(pace)
	fresh.Load(pace)
	subs = append(rest, fresh)
	r.More(100, subs...)
	broken, was := s, old.ReplicaID
	if !aside {
		broken, was = second, other.ReplicaID
	}
	r.Wait(2*time.Minute, "its new replica votes in place of the one that was set aside", func() (bool, string) {
		st, err := r.Leader(broken).Status()
		if err != nil {
			return false, err.Error()
		}
		at, _ := st.Structure(broken.ID)
		if st, err = victim.Status(); err != nil {
			return false, err.Error()
		}
		here, _ := st.Structure(broken.ID)
		_, still := at.Members[was]
		return !still && here.ReplicaID != was && at.Members[here.ReplicaID], fmt.Sprintf("members %v, replica %d was set aside, %d is here", at.Members, was, here.ReplicaID)
	})
	r.More(50, subs...)
	finish(t, r)
}

// flip inverts one bit in the middle of what the node's first segment holds.
func flip(t *testing.T, n *Node) (name string, offset int64) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(n.Dir, "wal", "*.seg"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no segments: %v", err)
	}
	slices.Sort(found)
	f, err := os.OpenFile(found[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	end := len(data)
	for end > 0 && data[end-1] == 0 {
		end-- // the rest is preallocated
	}
	offset = int64(end / 2)
	if _, err := f.WriteAt([]byte{data[offset] ^ 0x10}, offset); err != nil {
		t.Fatal(err)
	}
	return filepath.Base(found[0]), offset
}
