package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/load"
	"github.com/copycat-replication/copycat/bench/internal/report"
	"github.com/copycat-replication/copycat/bench/internal/wan"
)

// wanSample is a run of a case, with its median in milliseconds.
func wanSample(name string, outstanding int, p50 float64) wanResult {
	r := wanResult{Case: name, Leader: "center1", Place: "center1", Nearest: 30_000, Network: &wan.Report{Mode: wan.Namespaces, Congestion: "cubic", LateP99: 100 * time.Microsecond}}
	r.Format, r.Command = report.Format, "bench wan -case "+name
	r.Plan = load.Plan{Nodes: 6, Payload: 128, Outstanding: outstanding}
	r.OpsPerSecond, r.Latency.P50, r.Latency.P99 = 100, p50*1e3, 2*p50*1e3
	return r
}

// TestWANDocument: the runs of a case are one row, wherever in a file they are;
// what a case does not measure is not shown as zero.
func TestWANDocument(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, doc := filepath.Join(dir, "wan.jsonl"), filepath.Join(dir, "doc.md")
	if err := os.WriteFile(doc, []byte("before\n<!-- results:wan -->\nold\n<!-- end -->\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	struck := wanSample("killed", 16, 400)
	struck.Place, struck.Silence, struck.Election, struck.Errors.Broken = "center2", 1500, 1000, 1
	stream := wanSample("bandwidth", 1900, 200)
	stream.Stream, stream.Share = 60e6, 0.8
	stream.Network.Links = []wan.LinkReport{{}, {}}
	stream.Network.Links[0].Traffic.Lost, stream.Network.Links[1].Traffic.Overflowed = 3, 4
	for _, r := range []wanResult{wanSample("matrix", 1, 33), struck, wanSample("matrix", 1, 31), stream, wanSample("matrix", 1000, 36), wanSample("matrix", 1, 32)} {
		if err := appendJSON(file, &r); err != nil {
			t.Fatal(err)
		}
	}
	o := wanOptions{json: file, doc: doc}
	if err := o.document(nil); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"before\n", "after\n", "`go run ./bench wan -case matrix`, `go run ./bench wan -case killed`", "namespaces, congestion control cubic",
		"| matrix | 1 | 128 B | 3 | 100 (100 to 100) | 32.0 ms (31.0 ms to 33.0 ms) | 64.0 ms (62.0 ms to 66.0 ms) | 30 ms | - | - | - | - | 0.10 ms (0.10 ms to 0.10 ms) | 0, 0, 0 | 0 |",
		"| matrix | 1000 | 128 B | 1 | 100 | 36.0 ms |",
		"| killed | 16 | 128 B | 1 | 100 | - | - | - | - | 1.50 s | 1.50 | - | 0.10 ms | 0, 0, 0 | 1 |",
		"| 30 ms | 80 % | - | - | - | 0.10 ms | 3, 4, 0 | 0 |",
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if bytes.Contains(got, []byte("old")) || strings.Count(string(got), "| matrix | 1 |") != 1 {
		t.Errorf("document:\n%s", got)
	}
	if err := (&wanOptions{doc: doc}).document(nil); err == nil {
		t.Error("nothing was measured, and it was written")
	}
}
