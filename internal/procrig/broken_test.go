package procrig

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/internal/history"
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
	var stopped StructureState
	r.Wait(2*time.Minute, "it says so", func() (bool, string) {
		st, err := victim.Status()
		if err != nil {
			return false, err.Error()
		}
		stopped, _ = st.Structure(s.ID)
		return st.StorageIs == StorageFailed && stopped.Role == "stopped" && stopped.LastError != "", st.Storage
	})
	r.Leader(s, victim)
	own := of(subs, victim)[0]
	r.Wait(2*time.Minute, "its user is told", func() (bool, string) {
		st, err := own.State()
		if err != nil {
			return false, err.Error()
		}
		told := slices.ContainsFunc(st.Notices, func(e string) bool { return strings.Contains(e, s.ID) && strings.Contains(e, "replica stopped") })
		return told, fmt.Sprintf("%q", st.Notices)
	})
	r.More(100, rest...)
	after, err := own.State()
	if err != nil {
		t.Fatal(err)
	}
	if after.Len > int(stopped.Commits) { // what it had applied may still have been on its way to the consumer
		t.Errorf("it delivered %d commits, and had %d when it stopped", after.Len, stopped.Commits)
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

// TestFlippedBitInTheLog flips one bit in a sealed segment of a stopped node, in
// an entry of one structure. When the node starts it says which replica it sets
// aside, and where the damage is; it gets a new one from the group, which votes in the end; the other nodes do
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
	victim.Shutdown() // seals the segment
	name, offset := flip(t, victim, s)
	r.Fault("bit flipped on node %d, in %s at %d", victim.Number, name, offset)()
	r.More(50, rest...)
	victim.Start()
	if st, err = victim.Status(); err != nil {
		t.Fatal(err)
	}
	if len(st.SetAside) != 1 || !strings.HasPrefix(st.SetAside[0], s.ID) || !strings.Contains(st.SetAside[0], name) {
		t.Fatalf("set aside: %q, not %s alone for what is in %s", st.SetAside, s.ID, name)
	}
	fresh := victim.Subscribe(s)
	victim.Subscribe(second).Load(pace)
	fresh.Load(pace)
	subs = append(rest, fresh)
	r.More(100, subs...)
	r.Wait(2*time.Minute, "its new replica votes in place of the one that was set aside", func() (bool, string) {
		st, err := r.Leader(s).Status()
		if err != nil {
			return false, err.Error()
		}
		at, _ := st.Structure(s.ID)
		if st, err = victim.Status(); err != nil {
			return false, err.Error()
		}
		here, _ := st.Structure(s.ID)
		_, still := at.Members[old.ReplicaID]
		return !still && here.ReplicaID != old.ReplicaID && at.Members[here.ReplicaID], fmt.Sprintf("members %v, replica %d was set aside, %d is here", at.Members, old.ReplicaID, here.ReplicaID)
	})
	r.More(50, subs...)
	finish(t, r)
}

// flip inverts one bit of an entry of the structure, near the middle of what the
// node's first segment holds. Elsewhere it need not lose anything: the counters of
// the frames around a broken header, or filling, say that none is gone.
func flip(t *testing.T, n *Node, s *Structure) (name string, offset int64) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(n.Dir, "wal", "*.seg"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no segments: %v", err)
	}
	slices.Sort(found)
	data, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	middle := len(bytes.TrimRight(data, "\x00")) / 2 // the rest is preallocated
	at := middle
	for ; !holds(data[at:], s); at++ {
		if at == len(data) {
			t.Fatalf("no entry of %s in the second half of %s", s.ID, found[0])
		}
	}
	f, err := os.OpenFile(found[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{data[at] ^ 0x10}, int64(at)); err != nil {
		t.Fatal(err)
	}
	return filepath.Base(found[0]), int64(at)
}

// holds reports whether b begins with a payload that was proposed to the structure.
func holds(b []byte, s *Structure) bool {
	if len(b) < history.MinPayload {
		return false
	}
	size := uint64(binary.LittleEndian.Uint32(b[4:])) // as history.Payload has it
	if size > uint64(len(b)) {
		return false
	}
	p, err := history.ParsePayload(b[:size])
	return err == nil && p.ID.Writer.Subscriber().Structure == s.number
}
