package main

import (
	"strings"
	"testing"

	"github.com/copycat-replication/copycat"
	"github.com/copycat-replication/copycat/catalog"
)

// TestForget: the only replica of a structure is on a node that is gone. Nothing
// deletes the structure but the operator's word; while the node runs, not even that.
func TestForget(t *testing.T) {
	t.Parallel()
	cfgs := []*copycat.Config{config(t, "berlin"), config(t, "lisbon"), config(t, "paris"), config(t, "oslo")}
	nodes := []copycat.CopyCat{start(t, cfgs[0])}
	for _, c := range cfgs[1:] {
		c.PeersToContact = []string{nodes[0].Status().GossipAddress}
		nodes = append(nodes, start(t, c))
	}
	await(t, nodes[0], "four nodes, and a catalog of three voters or more", func(s copycat.Status) bool {
		return len(s.Nodes) == len(nodes) && len(s.Structures) > 0 && len(s.Structures[0].Voters) >= 3 // one of the four may be a learner
	})
	// By oslo itself: another node would get a replica of its own, for some seconds.
	s, err := nodes[3].AllocateNewDataStructure(copycat.WithPinnedDataCenters("oslo"), copycat.WithDataCenterReplicas(1))
	if err != nil {
		t.Fatal(err)
	}
	await(t, nodes[3], "the structure in oslo", func(st copycat.Status) bool {
		for _, g := range st.Structures {
			if g.ID == *s && g.Leader == st.NodeID && len(g.Voters) == 1 && len(g.Learners) == 0 {
				return true
			}
		}
		return false
	})
	tr := &transcript{t: t, names: map[string]string{}}
	try := func(want int, say, input string, args ...string) {
		t.Helper()
		args = append(append([]string{"forget"}, args...), cfgs[0].CopyCatDataDir)
		if code, printed := tr.say(input, args...); code != want || !strings.Contains(printed, say) {
			t.Errorf("%v: %d, without %q\n%s", args, code, say, printed)
		}
	}
	try(1, "has a replica of", "", "-structure", s.String(), "-yes")
	nodes[3].Shutdown()
	try(1, "not confirmed", "yes\n", "-structure", s.String())
	try(0, "the ID is free", s.String()+"\n", "-structure", s.String())
	try(0, "was deleted already", "", "-structure", s.String())
	try(1, "no structure", "", "-structure", "01M7ZD8XPXY194Q091KEDH101X")
	try(1, "recover -structure catalog", "", "-structure", catalog.ID.String(), "-yes")
	if err := nodes[0].CreateDataStructure(t.Context(), s); err != nil {
		t.Errorf("created anew: %v", err)
	}
	t.Logf("as it was printed:\n%s", tr.out.String()) // for docs/operations.md; shown with -v
}
