package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/report"
	"github.com/copycat-replication/copycat/bench/internal/wan"
)

// TestWANFaults breaks the leader of three nodes in three data centers in each
// way, and sees commits go on.
func TestWANFaults(t *testing.T) {
	if !*long {
		t.Skip("takes half a minute, as the simulation and the process tests show the same; run with -long")
	}
	for _, f := range []fault{killed, cutOff} {
		t.Run(string(f), func(t *testing.T) {
			needEmulation(t, wan.Namespaces)
			file := filepath.Join(t.TempDir(), "wan.jsonl")
			var out, progress bytes.Buffer
			args := []string{"-rtt", "10ms,14ms,20ms", "-nodes", "1", "-seconds", "9", "-warmup", "0.5", "-outstanding", "16", "-fault", string(f), "-dir", t.TempDir(), "-json", file}
			if code := runWAN(t.Context(), args, &out, &progress); code != 0 {
				t.Fatalf("exit code %d\n%s%s", code, &out, &progress)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var r wanResult
			if err := json.Unmarshal(data, &r); err != nil {
				t.Fatal(err)
			}
			if r.Ops == 0 || r.Errors.Any() || r.Silence <= 0 || r.Silence >= 6000 || r.Election != 1000 || (r.Back > 0) != (f == cutOff) {
				t.Errorf("result %s\n%s", data, &out)
			}
		})
	}
}

// TestElectionTimeouts: the time-out by which the result is judged is that of
// the engine (raftgroup/pace.go), except for where a round trip is a hair too long.
func TestElectionTimeouts(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, c := range []struct{ rtt, want time.Duration }{{0, time.Second}, {100 * ms, time.Second}, {190 * ms, time.Second}, {300 * ms, 2 * time.Second}, {500 * ms, 3 * time.Second}, {3 * time.Second, 5 * time.Second}} {
		w := wanCase{rtt: [3]time.Duration{ms, c.rtt, ms}}
		if got := w.election(); got != c.want {
			t.Errorf("round trip %v: %v, want %v", c.rtt, got, c.want)
		}
	}
}

func TestFaultMedians(t *testing.T) {
	t.Parallel()
	var results []wanResult
	for _, ms := range []float64{500, 300, 400} {
		results = append(results, wanResult{Case: "killed", Election: 1000, Result: report.Result{Silence: ms}})
	}
	results = append(results, wanResult{Case: "matrix"})
	var out strings.Builder
	if err := faultMedians(&out, results); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "killed: without commits for 400 ms (median of 3; 300 to 500), which is 0.40 of the shortest election time-out there, 1000 ms\n" {
		t.Errorf("%q", got)
	}
}
