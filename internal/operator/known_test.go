package operator

import (
	"errors"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestUses: what nodes that run say of a group decides whether it may be rebuilt
// from a directory that knows nothing of them.
func TestUses(t *testing.T) {
	t.Parallel()
	nodes := make([]id.Node, 4)
	for i := range nodes {
		nodes[i] = id.Node{byte(i + 1)}
	}
	life := id.Incarnation{Birth: 7}
	later := id.Incarnation{Birth: 7, Recovery: 1 << 16}
	for name, test := range map[string]struct {
		uses   []Use
		refuse string // empty: it may be rebuilt
	}{
		"nobody":             {},
		"another voter":      {uses: []Use{{nodes[1].String(), life}}, refuse: "majority of the voters"},
		"a node that joined": {uses: []Use{{nodes[3].String(), life}}, refuse: "has moved"},
		"a later life":       {uses: []Use{{nodes[3].String(), later}}, refuse: "later life of it, " + later.String()},
		"another birth":      {uses: []Use{{nodes[1].String(), id.Incarnation{Birth: 3}}}},
	} {
		c := Case{Survivors: []Survivor{{Dir: "dir", NodeID: nodes[0].String()}}}
		g := &c.Survivors[0].Group
		g.Phase, g.self, g.key.Incarnation, g.view.Voters = raftgroup.PhaseStarted, 1, life, map[id.Replica]id.Node{}
		for i, n := range nodes[:3] {
			m := Member{Replica: uint64(i + 1), NodeID: n.String(), Voter: true}
			g.view.Voters[id.Replica(m.Replica)] = n
			g.Members = append(g.Members, m)
		}
		c.findMissing()
		c.Learn(Fact{Source: "the catalog", Now: true, Uses: test.uses})
		err := c.Check(Overrule{})
		if test.refuse == "" && err != nil || test.refuse != "" && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), test.refuse)) {
			t.Errorf("%s: %v", name, err)
		}
		if err := c.Check(Overrule{Lesser: true}); err != nil {
			t.Errorf("%s, overruled: %v", name, err)
		}
	}
}
