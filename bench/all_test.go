package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/report"
)

// TestAllCommandLine: what "bench all" cannot do it says.
func TestAllCommandLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-h"}, 0, "docs/performance.md"},
		{[]string{"-x"}, 2, "-x"},
		{[]string{"stray"}, 2, "stray"},
	} {
		var out, progress bytes.Buffer
		if code := runAll(t.Context(), c.args, &out, &progress); code != c.code || !strings.Contains(progress.String(), c.says) {
			t.Errorf("%v: exit code %d, says %s", c.args, code, &progress)
		}
	}
}

// TestAllParts: each command takes the flags that it is given, and the document
// of the project has a place for what each writes.
func TestAllParts(t *testing.T) {
	t.Parallel()
	o := allOptions{runs: 1, soak: 1, dir: "/nonexistent", doc: "/nonexistent", results: t.TempDir(), systems: "copycat"}
	ended, end := context.WithCancel(t.Context())
	end()
	for _, p := range o.parts() {
		var out, progress bytes.Buffer
		if code := p.run(ended, p.args, &out, &progress); code != 1 { // 2: the flags are wrong
			t.Errorf("bench %s %v: exit code %d, %s", p.name, p.args, code, &progress)
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "docs", "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"lan", "curve", "groups", "rate", "idle", "subscribers", "failover", "recovery", "backpressure", "soak", failoverPart, wanPart} {
		file := filepath.Join(t.TempDir(), "doc.md")
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := report.Rewrite(file, part, func(io.Writer) error { return nil }); err != nil {
			t.Error(err)
		}
	}
}

// TestKilledInDocument: the runs of "bench failover" are a table without peers.
func TestKilledInDocument(t *testing.T) {
	t.Parallel()
	var runs []report.Result
	for i, ms := range []float64{120, 80, 100} {
		r := report.Result{System: "copycat", Run: i + 1, Silence: ms, Measure: "failover", Command: "bench failover -runs 3", Began: time.Unix(1700000000, 0)}
		runs = append(runs, r)
	}
	var b bytes.Buffer
	if err := report.Markdown(&b, failoverComparison(runs)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"`go run ./bench failover -runs 3`: 3 rounds", "| copycat | 100.0 ms (80.0 ms to 120.0 ms) |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, &b)
		}
	}
	if strings.Contains(b.String(), "Best peer") {
		t.Errorf("compared with nobody:\n%s", &b)
	}
}
