package report

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/measure"
)

var update = flag.Bool("update", false, "write the golden files anew")

// comparison has a first contender with a rate of 2,000, 3,000 and 4,000.
func comparison() Comparison {
	base := []Result{sample(1, 2000), sample(2, 3000), sample(3, 4000)}
	c := Case{Name: "row", Flags: []string{"-outstanding", "256"}, Measure: "load", X: 1, Contenders: []Contender{
		{Name: "copycat", Runs: base},
		{Name: "copycat, two detached", Flags: []string{"-subscribers", "1"}, Runs: []Result{sample(1, 9000), sample(2, 9000), sample(3, 9000)}},
		{Name: "slow", Runs: []Result{sample(1, 500), sample(3, 500)}, Failed: "round 2: it\nbroke"},
		{Name: "fast", Runs: []Result{sample(1, 4000), sample(2, 4000), sample(3, 4100)}},
		{Name: "absent", Skipped: "build absent: no such module"},
	}}
	c.Sum()
	return Comparison{
		Format: Format, Scenario: "lan", About: "What it is about.", Command: "go run ./bench compare", Began: time.Unix(1700000000, 0).UTC(), Rounds: 3,
		Machine: measure.Machine{Cores: 2, GoVersion: "go1", System: "linux/amd64", SyncP50: 85, SyncMax: 120, DiskRate: 500 << 20, Processor: "sample"}, Cases: []Case{c},
	}
}

func TestSum(t *testing.T) {
	t.Parallel()
	c := comparison().Cases[0]
	key := rate.Key
	for i, want := range []Summary{{3000, 2000, 4000}, {9000, 9000, 9000}, {500, 500, 500}, {4000, 4000, 4100}} {
		if got := c.Contenders[i].Summary[key]; got != want {
			t.Errorf("%s: %+v, want %+v", c.Contenders[i].Name, got, want)
		}
	}
	if c.Contenders[0].Ratio[key] != (Summary{}) || c.Contenders[4].Summary != nil {
		t.Errorf("the first has a ratio to itself, or the absent one has figures: %+v", c)
	}
	// Of rounds 1 and 3 alone: 2,000 and 4,000 through 500. Of an even number the lower.
	if got := c.Contenders[2].Ratio[key]; got != (Summary{4, 4, 8}) {
		t.Errorf("ratio to the slow one: %+v", got)
	}
	if got := c.Contenders[3].Ratio[key]; got != (Summary{0.75, 0.5, 4000.0 / 4100}) {
		t.Errorf("ratio to the fast one: %+v", got)
	}
	if _, compared := c.Contenders[3].Ratio[disk.Key]; compared {
		t.Error("the disk's figures are compared")
	}
}

// TestPairedNeedsFigures: a round in which one of both measured nothing has no ratio.
func TestPairedNeedsFigures(t *testing.T) {
	t.Parallel()
	a, b := []Result{sample(1, 100), sample(2, 100)}, []Result{sample(1, 0), sample(2, 50)}
	if got := paired(rate, a, b); !reflect.DeepEqual(got, []float64{2}) {
		t.Errorf("ratios %v", got)
	}
}

func TestSummarize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		of   []float64
		want Summary
	}{
		{nil, Summary{}},
		{[]float64{7}, Summary{7, 7, 7}},
		{[]float64{3, 1, 2}, Summary{2, 1, 3}},
		{[]float64{4, 1, 3, 2}, Summary{2, 1, 4}},
	} {
		given := append([]float64(nil), c.of...)
		if got := summarize(c.of); got != c.want || !reflect.DeepEqual(given, c.of) {
			t.Errorf("%v: %+v", given, got)
		}
	}
}

// TestGolden: the forms that files and documents have. Write them anew with -update.
func TestGolden(t *testing.T) {
	t.Parallel()
	all := []Comparison{comparison()}
	var data, doc, screen bytes.Buffer
	if err := WriteComparisons(&data, all); err != nil {
		t.Fatal(err)
	}
	if err := Markdown(&doc, &all[0]); err != nil {
		t.Fatal(err)
	}
	if err := CaseTable(&screen, &all[0].Cases[0]); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]*bytes.Buffer{"comparison.json": &data, "comparison.md": &doc, "comparison.txt": &screen} {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s is not what it was:\n%s", name, got)
		}
	}
	back, err := ReadComparisons(&data)
	if err != nil || !reflect.DeepEqual(back, all) {
		t.Errorf("%v: it did not come back as it was", err)
	}
	if _, err := ReadComparisons(strings.NewReader(`[{"format": 99}]`)); err == nil {
		t.Error("a newer format was read")
	}
}

// TestVerdict: it names the best peer, not a variant of the first, and says
// plainly who is ahead.
func TestVerdict(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		peer [3]uint64
		says string
	}{
		{[3]uint64{4000, 4000, 4100}, "**behind** in each round"},
		{[3]uint64{1000, 1000, 1000}, "ahead in each round"},
		{[3]uint64{2500, 2500, 2500}, "the rounds disagree"},
	} {
		k := comparison().Cases[0]
		k.Contenders = append(k.Contenders[:3:3], Contender{Name: "peer", Runs: []Result{sample(1, c.peer[0]), sample(2, c.peer[1]), sample(3, c.peer[2])}})
		k.Sum()
		if lines := verdicts(&k); len(lines) != 1 || !strings.Contains(lines[0], c.says) || !strings.HasPrefix(lines[0], "Best peer by op/s: peer.") {
			t.Errorf("%v: %q", c.peer, lines)
		}
	}
}

// at is a sample whose rate was given, with its own p99 and processor time.
func at(run int, p99, cpu float64) Result {
	r := sample(run, 1000)
	r.Plan.Rate, r.Latency.P99, r.CPU = 1000, p99, cpu
	return r
}

// TestVerdictOfAFixedRate guards what was wrong once: systems that were all given
// the same number of operations a second were compared by it.
func TestVerdictOfAFixedRate(t *testing.T) {
	t.Parallel()
	c := Case{Measure: "load", Contenders: []Contender{
		{Name: "copycat", Runs: []Result{at(1, 50, 100), at(2, 50, 100)}},
		{Name: "swift", Runs: []Result{at(1, 100, 200), at(2, 100, 300)}},
		{Name: "cheap", Runs: []Result{at(1, 500, 80), at(2, 500, 90)}},
	}}
	c.Sum()
	lines := verdicts(&c)
	want := []string{
		"Best peer by p99: swift. copycat has 0.50 times its figure (0.50 to 0.50): ahead in each round.",
		"Best peer by CPU µs/op: cheap. copycat has 1.11 times its figure (1.11 to 1.25): **behind** in each round.",
	}
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("verdicts %q", lines)
	}
	head, _ := table(&c)
	if got := strings.Join(head, " "); !strings.HasPrefix(got, "system p99 (least to most) p50") || !strings.Contains(got, " op/s ") || strings.Contains(got, "op/s ratio") {
		t.Errorf("head %q", got)
	}
}

// TestOneRoundHasNoSpread: the extremes of one run say nothing, and rounds of
// which there was one are not "each".
func TestOneRoundHasNoSpread(t *testing.T) {
	t.Parallel()
	c := Case{Measure: "load", Contenders: []Contender{{Name: "copycat", Runs: []Result{sample(1, 2000)}}, {Name: "peer", Runs: []Result{sample(1, 1000)}}}}
	c.Sum()
	head, rows := table(&c)
	if head[1] != "op/s" || rows[0][1] != "2,000" || rows[1][len(head)-3] != "2.00" {
		t.Errorf("%q %q", head, rows)
	}
	if lines := verdicts(&c); len(lines) != 1 || !strings.HasSuffix(lines[0], "2.00 times its figure: ahead in the one round.") {
		t.Errorf("verdicts %q", lines)
	}
}

// TestOverTime: a run with samples is told by what memory and disk held at most,
// before and after the middle of it.
func TestOverTime(t *testing.T) {
	t.Parallel()
	grows, stays := sample(1, 1000), sample(1, 1000)
	for i := range 10 {
		grows.Samples = append(grows.Samples, Sample{Memory: uint64(i+1) << 20, Disk: int64(i+1) << 30})
		stays.Samples = append(stays.Samples, Sample{Memory: 4 << 20, Disk: 5 << 30})
	}
	c := Case{Measure: "load", Contenders: []Contender{{Name: "copycat", Runs: []Result{grows}}, {Name: "peer", Runs: []Result{stays}}}}
	c.Sum()
	head, rows := table(&c)
	if strings.Join(head[1:5], ", ") != "memory, 1st half, memory, 2nd half, disk, 1st half, disk, 2nd half" || strings.Join(rows[0][1:5], ", ") != "5 MB, 10 MB, 5120 MB, 10.0 GB" {
		t.Errorf("%q %q", head, rows)
	}
	if recovery := (Case{Measure: "recovery", Contenders: c.Contenders}); recovery.kind() != "recovery" {
		t.Errorf("samples made a recovery %q", recovery.kind())
	}
	if lines := verdicts(&c); len(lines) != 2 || !strings.Contains(lines[0], "2.50 times") || !strings.Contains(lines[1], "**behind**") {
		t.Errorf("verdicts %q", lines)
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for us, want := range map[float64]string{0: "0 µs", 999: "999 µs", 1250: "1.25 ms", 99_900: "99.9 ms", 1_363_100: "1.36 s", 43_000_000: "43.0 s"} {
		if got := span(us); got != want {
			t.Errorf("%v µs: %q, want %q", us, got, want)
		}
	}
}
