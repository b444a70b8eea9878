package operator

import (
	"slices"
	"testing"

	"github.com/copycat-replication/copycat/raftgroup"
)

// TestNotIn: what the first directory has no replica of is counted once, for
// the directory that comes first; what is not used any more is not counted.
func TestNotIn(t *testing.T) {
	t.Parallel()
	report := func(dir string, groups ...Group) Report { return Report{Dir: dir, Groups: groups} }
	used := func(s string) Group { return Group{Structure: s, Phase: raftgroup.PhaseStarted} }
	old := func(s string) Group { return Group{Structure: s, Phase: raftgroup.PhaseSuperseded} }
	gone := used("d")
	gone.Deleted = true
	got := NotIn([]Report{
		report("one", used("a"), old("b")), report("two", used("a"), used("b"), used("c"), gone), report("three", used("c"), old("e")), report("four", used("f")),
	})
	if want := []Elsewhere{{"two", 2}, {"four", 1}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := NotIn([]Report{report("one", used("a"))}); len(got) > 0 {
		t.Errorf("%v of one directory", got)
	}
}
