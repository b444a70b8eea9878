//go:build linux

package procrig

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestWipedDirectory kills a follower, removes its data directory, and starts
// it again under the old address: it is a new node with new replicas. The old
// one never comes back, so it counts as a dead voter: with one more node
// killed, nobody may lead until that one is back.
func TestWipedDirectory(t *testing.T) {
	r, s, subs := begin(t, Options{})
	leader := r.Leader(s)
	victim, other := r.Others(leader)[0], r.Others(leader)[1]
	old := victim.ID
	victim.Kill()
	victim.Wipe()
	r.More(50, of(subs, leader, other)...)
	fresh := back(r, victim, s)
	if victim.ID == old {
		t.Fatalf("the wiped node is %s again", old)
	}
	st, err := victim.Status()
	if err != nil {
		t.Fatal(err)
	}
	if x, ok := st.Structure(s.ID); !ok || (slices.Contains(x.Voters, old) && x.Role == "leader") {
		t.Errorf("the new node's replica: %+v", x)
	}
	subs = append(of(subs, leader, other), fresh)
	r.More(50, subs...)

	other.Kill()
	if slices.Contains(votersAt(r, leader, s), old) {
		// Two of three voters are gone for good or for now. If the new node voted
		// with the old one's vote, there would still be a majority.
		r.Wait(2*time.Minute, "the last voter gives up", func() (bool, string) {
			st, err := leader.Status()
			if err != nil {
				return false, err.Error()
			}
			x, _ := st.Structure(s.ID)
			return x.Leader == "" || !slices.Contains(x.Voters, old), "it leads"
		})
	}
	subs = append(of(subs, leader, victim), back(r, other, s))
	r.More(50, subs...)
	finish(t, r)
}

func votersAt(r *Rig, n *Node, s *Structure) []string {
	r.t.Helper()
	st, err := n.Status()
	if err != nil {
		r.t.Fatal(err)
	}
	x, _ := st.Structure(s.ID)
	return x.Voters
}

// tmpfs mounts a file system of some megabytes; it skips the test where that
// is not permitted.
func tmpfs(t *testing.T, megabytes string) string {
	t.Helper()
	dir := t.TempDir()
	err := mountTmpfs(dir, "size="+megabytes+"m")
	switch {
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, os.ErrPermission):
		t.Skipf("a small file system cannot be mounted here: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill takes all of the free space but some, and returns what gives it back.
func fill(t *testing.T, dir string, leave int64) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for tries := 0; ; tries++ {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		var have syscall.Stat_t
		if err := syscall.Fstat(int(f.Fd()), &have); err != nil {
			t.Fatal(err)
		}
		err := syscall.Fallocate(int(f.Fd()), 0, 0, have.Blocks*512+int64(st.Bavail)*st.Bsize-leave)
		if err == nil {
			break
		}
		// The node takes space too, perhaps since we looked.
		if !errors.Is(err, syscall.ENOSPC) || tries == 100 {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskFull fills the disk of the leader, to the last byte: the node says
// so, its process lives, the others go on; when there is room again it goes on
// by itself.
func TestDiskFull(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := tmpfs(t, "1024")
	t.Parallel()
	r := New(t, Options{Seed: newSeed(), Complaints: []string{"disk full"}})
	small := r.Nodes[0]
	small.Dir = filepath.Join(dir, "data")
	r.StartAll()
	s := r.Structure()
	var subs []*Subscription
	for _, n := range r.Nodes {
		subs = append(subs, n.Subscribe(s))
	}
	r.AwaitVoters(s, 3)
	for _, sub := range subs {
		sub.Load(pace)
	}
	r.More(20, subs...)
	rest := of(subs, r.Others(small)...)
	for round := range pick(2, 10) {
		leave := int64(0)
		if round%2 == 1 {
			leave = 32 << 20 // below the reserve, and not empty
		}
		mended := r.Fault("the disk of node %d has %d bytes left", small.Number, leave)
		room := fill(t, dir, leave)
		r.Wait(2*time.Minute, "the node says that its disk is full", func() (bool, string) {
			st, err := small.Status()
			if err != nil {
				return false, err.Error()
			}
			return st.StorageIs == DiskFull, st.Storage
		})
		r.More(100, rest...)
		room()
		mended()
		r.Wait(2*time.Minute, "the node finds room again", func() (bool, string) {
			st, err := small.Status()
			if err != nil {
				return false, err.Error()
			}
			return st.Storage == "", st.Storage
		})
		r.More(100, subs...)
	}
	finish(t, r)
}

// TestKillOnFullDisk kills a node whose disk is full, and starts it again while
// it still is: with some room below the reserve, and with none. It comes up and
// says that its disk is full, or is refused with an error that says so; with
// room it is what it was.
func TestKillOnFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := tmpfs(t, "1024")
	t.Parallel()
	r := New(t, Options{Seed: newSeed(), Complaints: []string{"disk full"}})
	small := r.Nodes[2]
	small.Dir = filepath.Join(dir, "data")
	r.StartAll()
	s := r.Structure()
	var subs []*Subscription
	for _, n := range r.Nodes {
		subs = append(subs, n.Subscribe(s))
		subs[len(subs)-1].Load(pace)
	}
	r.AwaitVoters(s, 3)
	r.More(20, subs...)
	rest := of(subs, r.Others(small)...)
	old := small.ID
	for _, leave := range []int64{32 << 20, 0} {
		mended := r.Fault("the disk of node %d has %d bytes left", small.Number, leave)
		room := fill(t, dir, leave)
		r.Wait(2*time.Minute, "the node says that its disk is full", func() (bool, string) {
			st, err := small.Status()
			if err != nil {
				return false, err.Error()
			}
			return st.StorageIs == DiskFull, st.Storage
		})
		small.Kill()
		r.More(20, rest...)
		err := small.TryStart()
		var remote *RemoteError
		switch {
		case err == nil:
			st, err := small.Status()
			if err != nil || st.StorageIs != DiskFull {
				t.Errorf("with %d bytes it runs and says %q, %v", leave, st.Storage, err)
			}
			small.Kill()
		case !errors.As(err, &remote):
			t.Fatal(err) // it crashed
		case remote.Is != DiskFull && remote.Is != DataDir:
			t.Errorf("with %d bytes: got %v, want %s or %s", leave, err, DiskFull, DataDir)
		}
		t.Logf("with %d bytes it starts with %v", leave, err)
		room()
		mended()
		back(r, small, s)
		if small.ID != old {
			t.Errorf("node %s is %s now", old, small.ID)
		}
	}
	finish(t, r)
}

// TestDiskTooSmall starts a node on 64 MB, less than what it keeps in reserve:
// it says that its disk is full, and does not crash.
func TestDiskTooSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := tmpfs(t, "64")
	t.Parallel()
	r := New(t, Options{Seed: newSeed(), DataCenters: []string{"dc1"}, Complaints: []string{"disk full"}})
	n := r.Nodes[0]
	n.Dir = filepath.Join(dir, "data")
	err := n.TryStart()
	var remote *RemoteError
	if err == nil {
		st, err := n.Status()
		if err != nil {
			t.Fatal(err)
		}
		if st.StorageIs != DiskFull {
			t.Errorf("it runs on 64 MB, and says %q", st.Storage)
		}
		n.Shutdown()
		return
	}
	if !errors.As(err, &remote) {
		t.Fatal(err) // it crashed
	}
	if remote.Is != DiskFull {
		t.Errorf("a new node on a disk below the reserve answers %v, which is not ErrDiskFull", err)
	}
}
