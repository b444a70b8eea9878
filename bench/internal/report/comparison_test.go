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
		if line := verdict(&k); !strings.Contains(line, c.says) || !strings.HasPrefix(line, "Best peer by op/s: peer.") {
			t.Errorf("%v: %s", c.peer, line)
		}
	}
}
