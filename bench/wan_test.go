package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/bench/internal/smoke"
	"github.com/copycat-replication/copycat/bench/internal/wan"
	"github.com/copycat-replication/copycat/internal/netproxy"
)

// TestWANSmoke measures three nodes in three data centers, each in a process of
// its own, for some seconds, in each way in which this can be emulated here.
func TestWANSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("the short form is TestSmoke alone")
	}
	for _, mode := range []wan.Mode{wan.Namespaces, wan.Proxies} {
		t.Run(string(mode), func(t *testing.T) {
			needEmulation(t, mode)
			file := filepath.Join(t.TempDir(), "wan.jsonl")
			var out, progress bytes.Buffer
			args := []string{"-rtt", "10ms,14ms,20ms", "-nodes", "1", "-seconds", smoke.Window, "-warmup", "0.5", "-outstanding", "64", "-mode", string(mode), "-dir", t.TempDir(), "-json", file}
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
			if r.Ops == 0 || r.Errors.Any() || r.Latency.P50 < 10_000 || r.Network.Mode != mode || !strings.Contains(out.String(), string(mode)) {
				t.Errorf("result %s\n%s", data, &out)
			}
		})
	}
}

// needEmulation skips a test where this machine cannot emulate a network that
// way, and says what it lacks. Any other error is one.
func needEmulation(t *testing.T, mode wan.Mode) {
	t.Helper()
	probe, err := wan.New(wan.Config{Centers: []wan.Center{{Name: "probe", Hosts: 1}}, Mode: mode})
	if errors.Is(err, wan.ErrUnsupported) || errors.Is(err, netproxy.ErrUnsupported) {
		t.Skipf("not on this machine: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWANCommandLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-h"}, 0, "data centers"},
		{[]string{"-case", "none"}, 2, "none"},
		{[]string{"-rtt", "1ms"}, 2, "three"},
		{[]string{"-rtt", "1,2,3"}, 2, "missing unit"},
		{[]string{"-proposer", "4"}, 2, "proposer"},
		{[]string{"-runs", "0"}, 2, "runs"},
		{[]string{"-runs", "-1", "-json", "x", "-doc", "y"}, 2, "runs"},
		{[]string{"-runs", "0", "-json", "/nonexistent", "-doc", "y"}, 1, "nonexistent"},
		{[]string{"stray"}, 2, "stray"},
	} {
		var out, progress bytes.Buffer
		if code := runWAN(t.Context(), c.args, &out, &progress); code != c.code || !strings.Contains(progress.String(), c.says) {
			t.Errorf("%v: exit code %d, says %s", c.args, code, &progress)
		}
	}
}
