package main

import (
	"bytes"
	"context"
	"regexp"
	"slices"
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
	dead(regexp.MustCompile(`paris +replica \d+ +\w+ +voter +lag - +DEAD; the leader's node says what comes of it\n`))
	cfgs[3].PeersToContact = []string{nodes[0].Status().GossipAddress}
	start(t, cfgs[3])
	dead(regexp.MustCompile(`paris +replica \d+ +\w+ +voter +lag \d+ +DEAD, replaced in [1-9]\d? s\n`))
}

// TestStatusOfALeaveWithoutAMajority has a node leave after the two others with voters
// were lost: its status says for each group that there is no leader, and who is missing.
func TestStatusOfALeaveWithoutAMajority(t *testing.T) {
	t.Parallel()
	cfgs := []*copycat.Config{config(t, "berlin"), config(t, "lisbon"), config(t, "paris"), config(t, "rome")}
	nodes, id := three(t, cfgs[:3])
	settled(t, nodes)
	cfgs[3].PeersToContact = []string{nodes[0].Status().GossipAddress}
	rome := start(t, cfgs[3])
	await(t, rome, "three others", func(s copycat.Status) bool { return len(s.Nodes) == 4 })
	lost := []string{nodes[1].Status().NodeID, nodes[2].Status().NodeID}
	slices.Sort(lost)
	nodes[1].Shutdown()
	nodes[2].Shutdown()
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- nodes[0].Leave(ctx) }()
	want := "  waits: no leader: 1 of 3 voters on nodes that are seen, and 2 needed (not seen: " + strings.Join(lost, ", ") + ")\n"
	deadline := time.Now().Add(2 * time.Minute)
	for tick := time.NewTicker(100 * time.Millisecond); ; <-tick.C {
		var out, errs bytes.Buffer
		if code := run(t.Context(), []string{"status", cfgs[0].CopyCatDataDir}, strings.NewReader(""), &out, &errs); code != 0 {
			t.Fatalf("%d\n%s", code, errs.String())
		}
		_, of, _ := strings.Cut(out.String(), id.String()+"@")
		if strings.Contains(out.String(), "leaving  ") && strings.Contains(of, want) && strings.Count(of, "DEAD; without a leader nobody replaces it\n") == 2 {
			t.Logf("as it was printed:\n%s", out.String()) // for docs/operations.md; shown with -v
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within two minutes: %s\n%s", want, out.String())
		}
	}
	cancel()
	if err := <-left; err == nil || !strings.Contains(err.Error(), "no leader: 1 of 3 voters") {
		t.Errorf("the leave: %v", err)
	} else {
		t.Logf("the leave: %v", err)
	}
}

// TestHealth has each case of a member that is not well.
func TestHealth(t *testing.T) {
	t.Parallel()
	leads := nodestatus.Structure{Role: "leader", Leader: "this"}
	for _, c := range []struct {
		m    nodestatus.Member
		want string
	}{
		{nodestatus.Member{Alive: true, Voter: true}, ""},
		{nodestatus.Member{Voter: true}, "DEAD"}, // the leader has not missed it for long enough
		{nodestatus.Member{Voter: true, Missing: 26, ReplacedIn: 33.2}, "DEAD, replaced in 34 s"},
		{nodestatus.Member{Voter: true, Missing: 26, ReplacedIn: 33.2, Fate: "no node can take its place"}, "DEAD, given up in 34 s: no node can take its place"},
		{nodestatus.Member{Voter: true, Missing: 26, ReplacedIn: 33.2, Fate: "it is dropped, since fewer voters are wished"}, "DEAD, given up in 34 s: it is dropped, since fewer voters are wished"},
		{nodestatus.Member{Missing: 26, ReplacedIn: 33.2}, "DEAD, removed in 34 s"},
		{nodestatus.Member{Voter: true, Missing: 70, Lost: true, Fate: "it is being replaced"}, "DEAD, lost: it is being replaced"},
		{nodestatus.Member{Alive: true, Voter: true, Missing: 6.5, Fate: "its node lives, so it is not given up"}, "silent for 7 s: its node lives, so it is not given up"},
		{nodestatus.Member{Alive: true, Voter: true, Missing: 6.5, Lost: true, Fate: "it is being replaced"}, "silent for 7 s, lost: it is being replaced"},
	} {
		if got := health(leads, c.m); got != c.want {
			t.Errorf("%+v: %q, want %q", c.m, got, c.want)
		}
	}
	for _, c := range []struct {
		g    nodestatus.Structure
		m    nodestatus.Member
		want string
	}{
		{nodestatus.Structure{Role: "follower", Leader: "other"}, nodestatus.Member{Alive: true}, ""},
		{nodestatus.Structure{Role: "follower", Leader: "other"}, nodestatus.Member{}, "DEAD; the leader's node says what comes of it"},
		{nodestatus.Structure{Role: "learner"}, nodestatus.Member{}, "DEAD; without a leader nobody replaces it"},
	} {
		if got := health(c.g, c.m); got != c.want {
			t.Errorf("%s with leader %q: %q, want %q", c.g.Role, c.g.Leader, got, c.want)
		}
	}
}
