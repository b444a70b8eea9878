package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/bench/internal/report"
)

// TestKilledLeader kills the process of a leader, and sees commits go on.
func TestKilledLeader(t *testing.T) {
	if !*long {
		t.Skip("takes ten seconds, as the simulation and the process tests show the same; run with -long")
	}
	file := filepath.Join(t.TempDir(), "results.jsonl")
	var out, progress bytes.Buffer
	if code := runFailover(t.Context(), []string{"-runs", "1", "-dir", t.TempDir(), "-json", file}, &out, &progress); code != 0 {
		t.Fatalf("exit code %d\n%s", code, &progress)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	results, err := report.Read(bytes.NewReader(data))
	if err != nil || len(results) != 1 {
		t.Fatalf("%d results, %v", len(results), err)
	}
	if r := results[0]; r.Silence <= 0 || r.Silence >= 6000 || r.Errors.Any() {
		t.Errorf("%v ms without commits, errors %+v", r.Silence, r.Errors)
	}
}

func TestFailoverCommandLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
	}{{[]string{"-h"}, 0}, {[]string{"-runs", "0"}, 2}, {[]string{"-payload", "1"}, 2}, {[]string{"-unknown"}, 2}, {[]string{"stray"}, 2}, {[]string{"-dir", "/nonexistent"}, 1}} {
		var out, progress bytes.Buffer
		if code := runFailover(t.Context(), c.args, &out, &progress); code != c.code || progress.Len() == 0 {
			t.Errorf("%v: exit code %d, %s", c.args, code, &progress)
		}
	}
}

// TestWaitedInVain: what was waited for, by whom, and why it ended. Of a failover
// that was interrupted while a node did not start nothing was said but "context canceled".
func TestWaitedInVain(t *testing.T) {
	c, err := startProcesses(t.Context(), 1, t.TempDir(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	why := errors.New("somebody was in a hurry")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	err = c.await(ctx, "a leader", func([]nodeStatus) bool { return false })
	if !errors.Is(err, why) || !strings.Contains(err.Error(), "waited for a leader") || !strings.Contains(err.Error(), "node0 sees 1 of 1 nodes") {
		t.Errorf("the error says %q", err)
	}
}
