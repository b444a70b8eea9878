package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/copycat-replication/copycat"
	"github.com/copycat-replication/copycat/bench/internal/compare"
	"github.com/copycat-replication/copycat/bench/internal/smoke"
)

func TestMain(m *testing.M) {
	if os.Getenv(nodeVariable) != "" {
		os.Exit(runNode(os.Stdin, os.Stdout))
	}
	goleak.VerifyTestMain(m)
}

var long = flag.Bool("long", false, "measure a failover, too")

// TestSmoke loads three nodes for some seconds.
func TestSmoke(t *testing.T) {
	r := smoke.Run(t.Context(), t, command(), "-seconds", smoke.Window, "-warmup", "0.2", "-outstanding", "64", "-structures", "2")
	if r.Ops == 0 || r.Latency.P50 <= 0 || r.Errors.Any() {
		t.Errorf("result %+v", r)
	}
}

// TestSmokeProfile has snapshots, and a profile.
func TestSmokeProfile(t *testing.T) {
	if testing.Short() {
		t.Skip("the short form is TestSmoke alone")
	}
	profile := filepath.Join(t.TempDir(), "cpu")
	r := smoke.Run(t.Context(), t, command(), "-seconds", smoke.Window, "-warmup", "0.2", "-proposers", "all", "-snapshot-entries", "2000", "-cpuprofile", profile)
	if r.Ops == 0 || r.Errors.Any() || r.Settings != "snapshot after 2000 commits" {
		t.Errorf("result %+v", r)
	}
	if st, err := os.Stat(profile); err != nil || st.Size() == 0 {
		t.Errorf("profile: %v, %v", st, err)
	}
}

// TestAllMeasures measures everything that the scenarios ask of each system.
func TestAllMeasures(t *testing.T) {
	if testing.Short() {
		t.Skip("the short form is TestSmoke alone")
	}
	smoke.All(t, command(), *long)
}

// TestRecoveryOfSnapshot closes the nodes when all have a snapshot of a state
// that is larger than what a structure may begin with.
func TestRecoveryOfSnapshot(t *testing.T) {
	if testing.Short() {
		t.Skip("the short form is TestSmoke alone")
	}
	const state = 33 << 20
	r := smoke.Run(t.Context(), t, command(), "-measure", "recovery", "-fill", "200000", "-outstanding", "32", "-state", strconv.Itoa(state), "-snapshot-entries", "1000", "-seconds", "0.2")
	if r.Recovery == nil || r.Recovery.FirstCommit <= 0 || r.Recovery.Disk < 3*state || r.Errors.Any() {
		t.Errorf("recovery %+v, errors %+v", r.Recovery, r.Errors)
	}
}

// TestBeside has a structure in trouble beside those that are measured.
func TestBeside(t *testing.T) {
	if testing.Short() {
		t.Skip("the short form is TestSmoke alone")
	}
	for _, what := range [][]string{{"-beside", "stuck"}, {"-beside", "snapshots", "-beside-bytes", "1000000", "-snapshot-entries", "100"}} {
		r := smoke.Run(t.Context(), t, command(), append(what, "-seconds", smoke.Window, "-warmup", "0.2", "-subscribers", "5")...)
		if r.Ops == 0 || r.Errors.Any() || r.Errors.Warnings > 0 {
			t.Errorf("%v: %d operations, errors %+v", what, r.Ops, r.Errors)
		}
	}
	if r := smoke.Run(t.Context(), t, command(), "-measure", "idle", "-detached", "-structures", "5", "-seconds", "0.5", "-wake", "3"); r.Idle == nil {
		t.Error("nothing was measured of detached replicas")
	}
}

// TestScenarioFlags: the flags that the scenarios give CopyCat are its own.
func TestScenarioFlags(t *testing.T) {
	t.Parallel()
	sets := compare.Arguments("copycat")
	for _, args := range sets {
		if err := command().Check(args); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	if len(sets) < 20 {
		t.Errorf("only %d sets of flags", len(sets))
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-h"}, 0, "-proposers"},
		{[]string{"-nodes", "0", "-payload", "3"}, 2, "payload"},
		{[]string{"-runs", "0"}, 2, "runs"},
		{[]string{"stray"}, 2, "stray"},
		{[]string{"-unknown"}, 2, "unknown"},
		{[]string{"-dir", "/nonexistent/dir"}, 1, "directory"},
		{[]string{"-log", "loud"}, 1, "loud"},
		{[]string{"-measure", "luck"}, 2, "luck"},
		{[]string{"-measure", "recovery", "-fill", "5"}, 2, "fill"},
		{[]string{"-subscribers", "-1"}, 2, "subscribers"},
		{[]string{"-proposers", "follower", "-subscribers", "1"}, 2, "follower"},
	} {
		var out, progress bytes.Buffer
		args := c.args
		if c.args[0] == "-log" {
			args = append([]string{"-dir", t.TempDir()}, args...)
		}
		if code := command().Run(t.Context(), args, &out, &progress); code != c.code || !strings.Contains(progress.String(), c.says) {
			t.Errorf("%v: exit code %d, says %s", c.args, code, &progress)
		}
	}
}

// TestUnready: a structure that is not as it should be is named with what its
// replica says, since a run that waited in vain leaves nothing else behind.
func TestUnready(t *testing.T) {
	t.Parallel()
	ready := func(s *copycat.StructureStatus) bool { return s.Leader != "" }
	catalog, well := copycat.StructureStatus{Catalog: true}, copycat.StructureStatus{Leader: "x"}
	stopped := copycat.StructureStatus{Role: "stopped", Term: 7, Voters: []string{"x"}, LastError: copycat.ErrDiskFull}
	for _, c := range []struct {
		of   []copycat.StructureStatus
		want string
	}{
		{[]copycat.StructureStatus{catalog, well}, "the node has 1"},
		{[]copycat.StructureStatus{catalog, well, stopped}, `is a stopped at term 7 with leader "", 1 voters, interactive false, applied 0 of 0, ` + copycat.ErrDiskFull.Error()},
	} {
		if got := unready(&copycat.Status{Structures: c.of}, ready); !strings.Contains(got, c.want) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
