// Package smoke runs a system's whole program for a moment, in tests: those of
// CopyCat's bench, and those of the peers in their modules.
package smoke

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/bench/internal/cli"
	"github.com/copycat-replication/copycat/bench/internal/report"
)

// Window is how many seconds a test measures what must have been done then. A busy
// disk may stand still for most of a second: a shorter window can be empty.
const Window = "3"

// Run runs a command once and returns its result. It fails the test if the
// command fails, writes no result, or leaves something behind.
func Run(ctx context.Context, t *testing.T, command *cli.Command, args ...string) report.Result {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "results.jsonl")
	var out, progress bytes.Buffer
	code := command.Run(ctx, append([]string{"-dir", dir, "-json", file}, args...), &out, &progress)
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
	r := results[0]
	if !strings.Contains(out.String(), report.Metrics(r.Measure)[0].Name) || !strings.Contains(progress.String(), "is starting") {
		t.Errorf("table:\n%s\nprogress:\n%s", &out, &progress)
	}
	return r
}

// All measures everything that the scenarios ask of each system, shortly;
// failovers only of a system whose nodes can be ended one by one.
func All(t *testing.T, command *cli.Command, failover bool) {
	check := func(args ...string) report.Result {
		t.Helper()
		r := Run(t.Context(), t, command, append([]string{"-seconds", "0.5", "-warmup", "0.2"}, args...)...)
		if r.Errors.Any() {
			t.Errorf("%v: errors %+v", args, r.Errors)
		}
		return r
	}
	for _, args := range [][]string{
		{"-outstanding", "1"},
		{"-outstanding", "64", "-structures", "3"},
		{"-outstanding", "64", "-proposers", "follower"},
		{"-outstanding", "64", "-proposers", "all"},
	} {
		r := check(append(args, "-seconds", Window)...)
		if r.Ops == 0 || r.Latency.P50 <= 0 || r.DiskPerByte == 0 || r.SentPerByte == 0 {
			t.Errorf("%v: %d operations, p50 %v µs, %v written and %v sent for each byte", args, r.Ops, r.Latency.P50, r.DiskPerByte, r.SentPerByte)
		}
	}
	if command.Subscribers { // fewer than nodes, and more
		check("-outstanding", "16", "-subscribers", "1")
		check("-outstanding", "16", "-subscribers", "5")
	}
	if r := check("-measure", "idle", "-structures", "5", "-wake", "3"); r.Idle == nil || r.Idle.Reopen <= 0 || r.Idle.Woken <= 0 || r.Idle.Awake <= 0 {
		t.Errorf("idle: %+v", r.Idle)
	}
	r := check("-measure", "recovery", "-fill", "200000", "-outstanding", "32")
	if r.Recovery == nil || r.Recovery.FirstCommit <= 0 || r.Recovery.Disk < 200000 {
		t.Errorf("recovery: %+v", r.Recovery)
	}
	if failover {
		checkFailover(t, command)
	}
}

func checkFailover(t *testing.T, command *cli.Command) {
	t.Helper()
	// Of a failover only that it is measured: what is under way may fail there.
	f := filepath.Join(t.TempDir(), "failover.jsonl")
	var out, progress bytes.Buffer
	command.Run(t.Context(), []string{"-measure", "failover", "-outstanding", "6", "-seconds", "9", "-warmup", "0.3", "-dir", t.TempDir(), "-json", f}, &out, &progress)
	data, err := os.ReadFile(f)
	if err != nil {
		t.Fatalf("failover: %v\n%s", err, &progress)
	}
	results, err := report.Read(bytes.NewReader(data))
	if err != nil || len(results) != 1 || results[0].Silence <= 0 || results[0].Silence >= 6000 {
		t.Errorf("failover: %v\n%s%s", err, &out, &progress)
	}
}
