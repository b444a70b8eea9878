package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/copycat-replication/copycat"
	"github.com/copycat-replication/copycat/internal/nodestatus"
)

// TestStatusOfADeadVoter loses one of three nodes: the status of the one that
// leads says until when its voter is waited for, and that nobody is there to take
// its place; with a fourth node, in how many seconds it is replaced.
func TestStatusOfADeadVoter(t *testing.T) {
	t.Parallel()
	cfgs := []*copycat.Config{config(t, "berlin"), config(t, "lisbon"), config(t, "paris"), config(t, "rome")}
	nodes, id := three(t, cfgs[:3])
	settled(t, nodes)
	nodes[2].Shutdown()
	// of the structure, on the node that leads it
	dead := func(want *regexp.Regexp) {
		t.Helper()
		deadline := time.Now().Add(2 * time.Minute)
		for tick := time.NewTicker(50 * time.Millisecond); ; <-tick.C {
			var all bytes.Buffer
			for _, c := range cfgs[:2] {
				var out, errs bytes.Buffer
				if code := run(t.Context(), []string{"status", c.CopyCatDataDir}, strings.NewReader(""), &out, &errs); code != 0 {
					t.Fatalf("%d\n%s", code, errs.String())
				}
				_, of, _ := strings.Cut(out.String(), id.String()+"@")
				if want.MatchString(of) {
					t.Logf("as it was printed:\n%s", out.String()) // for docs/operations.md; shown with -v
					return
				}
				all.Write(out.Bytes())
			}
			if time.Now().After(deadline) {
				t.Fatalf("not within two minutes: %s\n%s", want, all.String())
			}
		}
	}
	dead(regexp.MustCompile(`paris +replica \d+ +\w+ +voter +lag \d+ +DEAD, given up in [1-9]\d? s: no node can take its place\n`))
	cfgs[3].PeersToContact = []string{nodes[0].Status().GossipAddress}
	start(t, cfgs[3])
	dead(regexp.MustCompile(`paris +replica \d+ +\w+ +voter +lag \d+ +DEAD, replaced in [1-9]\d? s\n`))
}

// TestHealth has each case of a member that is not well.
func TestHealth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		m    nodestatus.Member
		want string
	}{
		{nodestatus.Member{Alive: true, Voter: true}, ""},
		{nodestatus.Member{Voter: true}, "DEAD"}, // as who does not lead sees it
		{nodestatus.Member{Voter: true, Missing: 26, ReplacedIn: 33.2}, "DEAD, replaced in 34 s"},
		{nodestatus.Member{Voter: true, Missing: 26, ReplacedIn: 33.2, Fate: "no node can take its place"}, "DEAD, given up in 34 s: no node can take its place"},
		{nodestatus.Member{Missing: 26, ReplacedIn: 33.2}, "DEAD, removed in 34 s"},
		{nodestatus.Member{Voter: true, Missing: 70, Lost: true, Fate: "it is being replaced"}, "DEAD, lost: it is being replaced"},
		{nodestatus.Member{Alive: true, Voter: true, Missing: 6.5, Fate: "its node lives, so it is not given up"}, "silent for 7 s: its node lives, so it is not given up"},
		{nodestatus.Member{Alive: true, Voter: true, Missing: 6.5, Lost: true, Fate: "it is being replaced"}, "silent for 7 s, lost: it is being replaced"},
	} {
		if got := health(c.m); got != c.want {
			t.Errorf("%+v: %q, want %q", c.m, got, c.want)
		}
	}
}
