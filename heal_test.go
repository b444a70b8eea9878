package copycat

import (
	"slices"
	"testing"
	"time"
)

// TestDeadNodeIsReplaced loses one of four nodes: the structure and the catalog
// get three voters again. The node comes back, and is cleaned up.
func TestDeadNodeIsReplaced(t *testing.T) {
	t.Parallel()
	config := func(dc string, peers ...string) *Config {
		c := testConfig(t, dc, peers...)
		c.ReplaceAfter = 3 * time.Second
		return c
	}
	first := start(t, config("dc1"))
	peer := first.Status().GossipAddress
	cfg3 := config("dc3", peer)
	second, third := start(t, config("dc2", peer)), start(t, cfg3)
	waitStatus(t, first, "three nodes alive", func(s Status) bool { return alive(s) == 3 })
	id, err := first.AllocateNewDataStructure()
	if err != nil {
		t.Fatal(err)
	}
	l := newList(t, second, id.String())
	l.propose <- []byte("before")
	l.waitFor(1)
	gone := third.Status().NodeID
	held := func(s Status) bool {
		st, ok := structure(s, id.String())
		return ok && slices.Contains(st.Voters, gone)
	}
	waitStatus(t, first, "three voters, of the catalog too", func(s Status) bool {
		return held(s) && slices.ContainsFunc(s.Structures, func(st StructureStatus) bool { return st.Catalog && len(st.Voters) == 3 })
	})
	third.Shutdown()
	// Looked at every now and then, it may be lost already: the grace is short here.
	waitStatus(t, first, "until when the dead voter is waited for, or that it is lost", func(s Status) bool {
		return slices.ContainsFunc(s.Structures, func(st StructureStatus) bool {
			return slices.ContainsFunc(st.Members, func(m MemberStatus) bool {
				waited := m.ReplacedIn > 0 && m.ReplacedIn <= cfg3.ReplaceAfter
				return m.NodeID == gone && m.Missing > 0 && waited != m.Lost && m.Fate == "no node can take its place"
			})
		})
	})
	fourth := start(t, config("dc3", peer))
	waitStatus(t, fourth, "voters in place of the dead ones", func(s Status) bool {
		whole := 0
		for _, st := range s.Structures {
			if len(st.Voters) == 3 && slices.Contains(st.Voters, s.NodeID) && !slices.Contains(st.Voters, gone) {
				whole++
			}
		}
		return whole == 2
	})
	l.propose <- []byte("after")
	l.waitFor(2)
	third = start(t, cfg3)
	waitStatus(t, third, "its old replica of the structure gone", func(s Status) bool {
		_, has := structure(s, id.String())
		return s.NodeID == gone && !has
	})
}
