package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/copycat-replication/copycat/bench/internal/report"
)

func TestMain(m *testing.M) {
	if os.Getenv(nodeVariable) != "" {
		os.Exit(runNode(os.Stdin, os.Stdout))
	}
	goleak.VerifyTestMain(m)
}

// smoke runs the whole program once and returns its result.
func smoke(t *testing.T, args ...string) report.Result {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "results.jsonl")
	var out, progress bytes.Buffer
	code := command().Run(t.Context(), append([]string{"-dir", dir, "-json", file}, args...), &out, &progress)
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, &out, &progress)
	}
	data, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	results, err := report.Read(data)
	if err != nil || len(results) != 1 {
		t.Fatalf("%d results, %v", len(results), err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left in the directory: %v, %v", left, err)
	}
	if !strings.Contains(out.String(), "op/s") || !strings.Contains(progress.String(), "operations/s") {
		t.Errorf("table:\n%s\nprogress:\n%s", &out, &progress)
	}
	return results[0]
}

// TestSmoke loads three nodes for two seconds.
func TestSmoke(t *testing.T) {
	r := smoke(t, "-seconds", "1.5", "-warmup", "0.5", "-outstanding", "64", "-structures", "2")
	if r.Ops == 0 || r.Latency.P50 <= 0 || r.Errors.Any() {
		t.Errorf("result %+v", r)
	}
}

// TestSmokePlaces has proposers everywhere, snapshots, and a profile.
func TestSmokePlaces(t *testing.T) {
	if testing.Short() {
		t.Skip("the short form is TestSmoke alone")
	}
	profile := filepath.Join(t.TempDir(), "cpu")
	r := smoke(t, "-seconds", "1.5", "-warmup", "0.5", "-proposers", "all", "-snapshot-entries", "2000", "-cpuprofile", profile)
	if r.Ops == 0 || r.Errors.Any() || r.Settings != "snapshot after 2000 commits" {
		t.Errorf("result %+v", r)
	}
	if st, err := os.Stat(profile); err != nil || st.Size() == 0 {
		t.Errorf("profile: %v, %v", st, err)
	}
	r = smoke(t, "-seconds", "1", "-warmup", "0.2", "-proposers", "follower", "-outstanding", "1")
	if r.Ops == 0 || r.Errors.Any() {
		t.Errorf("result %+v", r)
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
