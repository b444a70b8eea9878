package copycat

import (
	"testing"

	"github.com/copycat-replication/copycat/id"
)

// TestFar: frames are compressed to nodes of other data centers, and to no other.
func TestFar(t *testing.T) {
	t.Parallel()
	a := start(t, testConfig(t, "east"))
	b := start(t, testConfig(t, "east", a.Status().GossipAddress))
	c := start(t, testConfig(t, "west", a.Status().GossipAddress))
	waitStatus(t, a, "all nodes", func(s Status) bool { return len(s.Nodes) == 3 })
	n := a.(*node)
	for _, x := range []struct {
		node CopyCat
		far  bool
	}{{b, false}, {c, true}} {
		other, err := id.ParseNode(x.node.Status().NodeID)
		if err != nil {
			t.Fatal(err)
		}
		if got := n.far(other); got != x.far {
			t.Errorf("node in %s: far %v", x.node.Status().DataCenter, got)
		}
	}
	if n.far(id.Node{1}) {
		t.Error("a node that nobody knows is far")
	}
}
