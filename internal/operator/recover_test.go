package operator

import (
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestMajorityGoesBeforeTheLongerLog asks for a rebuilding with directories of
// which a later one has more of the log. Whose log is longer does not matter when
// they are a majority together; and who are the voters, the longer log tells.
func TestMajorityGoesBeforeTheLongerLog(t *testing.T) {
	t.Parallel()
	survivor := func(self id.Replica, last uint64, voters ...id.Replica) Survivor {
		g := Group{Phase: raftgroup.PhaseStarted, Last: last, LastTerm: 1, self: self}
		g.view.Voters = make(map[id.Replica]id.Node)
		for _, v := range voters {
			g.view.Voters[v] = id.Node{byte(v)}
		}
		return Survivor{Dir: "/dir", Group: g}
	}
	for _, c := range []struct {
		name      string
		survivors []Survivor
		want      string // in the refusal
	}{
		{"a majority, the second has more", []Survivor{survivor(1, 4, 1, 2, 3), survivor(2, 5, 1, 2, 3)}, "start their nodes"},
		{"a majority, the first has more", []Survivor{survivor(1, 5, 1, 2, 3), survivor(2, 4, 1, 2, 3)}, "start their nodes"},
		{"no majority, the second has more", []Survivor{survivor(1, 4, 1, 2, 3, 4, 5), survivor(2, 5, 1, 2, 3, 4, 5)}, "more of the log"},
		{"a majority of what the second knows is past", []Survivor{survivor(1, 4, 1, 2, 3), survivor(2, 5, 2, 7, 8)}, "more of the log"},
		{"no majority, the first has more", []Survivor{survivor(1, 5, 1, 2, 3)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			whole := Case{Survivors: c.survivors}
			whole.findMissing()
			err := whole.Check(Overrule{})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, wanted %q", err, c.want)
			}
		})
	}
}
