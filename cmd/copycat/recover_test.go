package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat"
	"github.com/copycat-replication/copycat/internal/operator"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// TestRecoverWithCare: lisbon is away while a structure is deleted. Its directory
// alone cannot tell, and says so; the catalog of the cluster, or of another
// directory, does, and then nothing is rebuilt. Another structure is rebuilt
// twice: the second life has the greater number, since a directory tells of the
// first; and once more from a replica that was set aside.
func TestRecoverWithCare(t *testing.T) {
	t.Parallel()
	cfgs := []*copycat.Config{config(t, "berlin"), config(t, "lisbon"), config(t, "paris")}
	nodes := []copycat.CopyCat{start(t, cfgs[0])}
	for _, c := range cfgs[1:] {
		c.PeersToContact = []string{nodes[0].Status().GossipAddress}
		nodes = append(nodes, start(t, c))
	}
	berlin, lisbon := cfgs[0].CopyCatDataDir, cfgs[1].CopyCatDataDir
	await(t, nodes[0], "a catalog of three voters", calm(3, 1))
	var ids []*copycat.ID
	for range 2 {
		s, err := nodes[0].AllocateNewDataStructure(copycat.WithDataCenterReplicas(3))
		if err != nil {
			t.Fatal(err)
		}
		sub := subscribe(t, nodes[0], s)
		sub.propose <- []byte("line")
		sub.await(t, "line")
		ids = append(ids, s)
	}
	for _, n := range nodes {
		await(t, n, "three voters of all groups", calm(3, 3))
	}
	deleted, kept := ids[0], ids[1]
	nodes[1].Shutdown()
	if err := nodes[0].DeleteDataStructure(t.Context(), deleted); err != nil {
		t.Fatal(err)
	}
	tr := &transcript{t: t, names: map[string]string{berlin: "/var/lib/berlin", lisbon: "/var/lib/lisbon"}}
	try := func(want int, say string, args ...string) {
		t.Helper()
		if code, printed := tr.say("no\n", append([]string{"recover"}, args...)...); code != want || !strings.Contains(printed, say) {
			t.Errorf("%v: %d, without %q\n%s", args, code, say, printed)
		}
	}
	try(1, "Not known: whether it was deleted", "-structure", deleted.String(), lisbon)
	try(1, "the catalog says that it was deleted; rebuilt, it would be ended", "-structure", deleted.String(), "-yes", "-force", "-ask", berlin, lisbon)
	try(1, "DELETED: the catalog says that it was deleted", "-structure", deleted.String(), "-deleted", "-ask", berlin, lisbon)
	try(1, "a node runs on it, stop it first", "-structure", kept.String(), berlin) // before it asks
	try(1, "a majority of the voters: start the nodes", "-structure", kept.String(), "-yes", "-ask", berlin, lisbon)
	try(1, "the catalog of the cluster that was asked has its quorum", "-structure", "catalog", "-yes", "-ask", berlin, lisbon)
	nodes[0].Shutdown()
	nodes[2].Shutdown()
	try(1, "-ask: no node runs", "-structure", "catalog", "-ask", berlin, lisbon)
	try(1, "-ask: no node runs", "-structure", deleted.String(), "-ask", berlin, lisbon)
	try(1, "says that it was deleted; rebuilt", "-structure", deleted.String(), "-yes", lisbon, berlin)

	try(0, "is now ", "-structure", kept.String(), "-yes", "-reason", "the others have burned", berlin)
	life := func(dir string) string {
		t.Helper()
		r, err := operator.Inspect(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range r.Groups {
			if g.Structure == kept.String() {
				return g.Incarnation
			}
		}
		t.Fatalf("%s has no replica", dir)
		return ""
	}
	first := life(berlin)
	try(1, "rebuild from that one", "-structure", kept.String(), "-yes", lisbon, berlin)
	try(0, ".2-", "-structure", kept.String(), "-yes", "-force", lisbon, berlin)
	if second := life(lisbon); !strings.Contains(second, ".2-") {
		t.Errorf("rebuilt as %s, and then as %s", first, second)
	}
	try(1, "-superseded rebuilds from it", "-structure", setAside(t, berlin, kept.String()), "-yes", berlin)
	try(0, ".6-", "-structure", kept.String(), "-superseded", "-beyond", strings.Split(first, ".")[0]+".5-0001", "-yes", "-reason", "it is all there is", berlin)
	cfgs[0].PeersToContact = nil
	nodes[0] = start(t, cfgs[0])
	sub := subscribe(t, nodes[0], kept)
	sub.await(t, "line")
	sub.propose <- []byte("after")
	sub.await(t, "after")
	nodes[0].Shutdown()
	for _, args := range [][]string{{"-structure", "all", "-used"}, {"-structure", kept.String(), "-yes"}} {
		if code, printed := tr.say("", append(append([]string{"purge"}, args...), berlin)...); code != 1 {
			t.Errorf("%v: %d\n%s", args, code, printed)
		}
	}
	if code, printed := tr.say("", "purge", "-structure", kept.String(), "-used", "-yes", "-reason", "another life is to stay", berlin); code != 0 || !strings.Contains(printed, "IN USE: ") {
		t.Errorf("purge of what is used: %d\n%s", code, printed)
	}
	if printed := lookInto(t, berlin); strings.Contains(printed, kept.String()) {
		t.Errorf("inspect:\n%s", printed)
	}
	t.Logf("as it was printed:\n%s", tr.out.String()) // for docs/operations.md; shown with -v
}

// setAside has a stopped node's replica of a structure set aside, as a node does
// that learns of a later life.
func setAside(t *testing.T, dir, structure string) string {
	t.Helper()
	l, err := wal.Open(wal.Options{FS: vfs.OS{}, Dir: filepath.Join(dir, "wal")})
	if err != nil {
		t.Fatal(err)
	}
	l.Start()
	for _, st := range l.Groups() {
		rec, err := raftgroup.DecodeReplica(st.Meta)
		if err != nil || rec.Group.Structure.String() != structure {
			continue
		}
		var m grouppb.Replica
		if err := m.Unmarshal(bytes.Clone(st.Meta)); err != nil {
			t.Fatal(err)
		}
		m.Version, m.Phase = 2, grouppb.Replica_SUPERSEDED
		meta, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		written := make(chan error, 1)
		l.Submit([]wal.Update{{Group: st.Group, Meta: meta}}, func(err error) { written <- err })
		if err := <-written; err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return structure
}
