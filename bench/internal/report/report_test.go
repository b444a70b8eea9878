package report

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/copycat-replication/copycat/bench/internal/load"
	"github.com/copycat-replication/copycat/bench/internal/measure"
)

func sample(run int, rate uint64) Result {
	h := hdrhistogram.New(1000, int64(time.Minute), 3)
	for us := range int64(1000) {
		_ = h.RecordValue((us + 1) * 1000)
	}
	r := Result{
		Format: Format, System: "sample", Settings: "none", Command: "bench -x", Began: time.Unix(1700000000, 0).UTC(), Run: run, Runs: 3,
		Plan:    load.Plan{Nodes: 3, Structures: 1, Payload: 100, Outstanding: 256, Proposers: load.AtLeader, Seconds: 10, Warmup: 2},
		Machine: measure.Machine{Cores: 2, GoMaxProcs: 2, GoVersion: "go1", System: "linux/amd64", SyncP50: 85, SyncMax: 120, DiskRate: 500 << 20},
	}
	o := load.Outcome{Ops: rate * 10, PerSecond: []uint64{rate, rate * 9}, Latency: h, Slowest: 1000 * time.Microsecond, Warnings: 2, FirstError: errors.New("odd")}
	used := measure.Usage{
		User: 6 * time.Second, System: 4 * time.Second, MachineBusy: 15 * time.Second,
		DiskWritten: rate * 10 * 300, Sent: rate * 10 * 200, CallWritten: 7, Allocations: rate * 20, Allocated: rate * 5000, Collections: 4,
	}
	r.Add(o, used, 10*time.Second, 64<<20)
	return r
}

func TestResultOfRun(t *testing.T) {
	t.Parallel()
	r := sample(1, 1000)
	near := func(what string, got, want float64) {
		t.Helper()
		if got < want*0.998 || got > want*1.002 {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	near("ops per second", r.OpsPerSecond, 1000)
	near("CPU", r.CPU, 1000) // 10 s for 10,000
	near("CPU user", r.CPUUser, 600)
	near("cores", r.CoresUsed, 1)
	near("cores of others", r.CoresOthers, 0.5)
	near("disk", r.DiskPerByte, 3)
	near("sent", r.SentPerByte, 2)
	near("allocs", r.AllocsPerOp, 2)
	near("p50", r.Latency.P50, 500)
	near("p99", r.Latency.P99, 990)
	near("p99.9", r.Latency.P999, 999)
	near("max", r.Latency.Max, 1000)
	if r.PayloadBytes != 1_000_000 || r.RSSPeak != 64<<20 || r.Errors.Any() {
		t.Errorf("result %+v", r)
	}
}

func TestResultOfNothing(t *testing.T) {
	t.Parallel()
	r := sample(1, 0)
	var b bytes.Buffer
	if err := r.Write(&b); err != nil { // no NaN, which JSON does not know
		t.Fatal(err)
	}
	if err := Table(&b, []Result{r}); err != nil {
		t.Fatal(err)
	}
}

func TestResultsComeBack(t *testing.T) {
	t.Parallel()
	want := []Result{sample(1, 1000), sample(2, 3000)}
	var b bytes.Buffer
	for i := range want {
		if err := want[i].Write(&b); err != nil {
			t.Fatal(err)
		}
		b.WriteByte('\n') // empty lines do not matter
	}
	if n := strings.Count(b.String(), "\n"); n != 4 {
		t.Errorf("%d lines", n)
	}
	got, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	if _, err := Read(strings.NewReader(`{"format": 2}`)); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("a newer format: %v", err)
	}
	if _, err := Read(strings.NewReader("{\n")); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("half a line: %v", err)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := Table(&b, []Result{sample(1, 1000), sample(2, 3000), sample(3, 2000000)}); err != nil {
		t.Fatal(err)
	}
	out := b.String()
	for _, want := range []string{"3 nodes, 1 structure, 100 B, 256 outstanding", "2,000,000", "median", "3,000", "500 µs", "1.00 ms", "0+2w", "odd"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Count(out, "3 nodes") != 1 {
		t.Errorf("the plan is not told once:\n%s", out)
	}
}
