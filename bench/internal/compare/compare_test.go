package compare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/copycat-replication/copycat/bench/internal/report"
)

// fake makes a program that notes its name and its flags, and answers with a
// result of a given rate; without one it fails.
func fake(t *testing.T, dir, name string, rate float64) string {
	t.Helper()
	result, err := json.Marshal(report.Result{Format: report.Format, System: name, OpsPerSecond: rate})
	if err != nil {
		t.Fatal(err)
	}
	last := fmt.Sprintf("echo '%s' > \"$json\"", result)
	if rate == 0 {
		last = "echo it went wrong >&2; exit 1"
	}
	script := fmt.Sprintf(`#!/bin/sh
echo "%s $*" >> "%s/calls"
while [ $# -gt 1 ]; do [ "$1" = -json ] && json=$2; shift; done
%s
`, name, dir, last)
	file := filepath.Join(dir, name)
	// A process that another test starts meanwhile would have the file open for
	// writing until it executes, and the kernel executes no such file.
	syscall.ForkLock.RLock()
	err = os.WriteFile(file, []byte(script), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func calls(t *testing.T, dir string) (names []string, all string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, name)
	}
	return names, string(data)
}

// TestRoundsAlternate: each round begins with another system; what cannot be
// built is left out, what fails is told, and each run gets the case's flags
// and its own.
func TestRoundsAlternate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var progress bytes.Buffer
	r := &runner{
		programs: map[string]string{"copycat": fake(t, dir, "copycat", 200), "etcd": fake(t, dir, "etcd", 100), "nats": fake(t, dir, "nats", 0)},
		broken:   map[string]string{"dragonboat": "no such module"},
		dir:      t.TempDir(), scratch: t.TempDir(), stderr: &progress, planned: 15,
	}
	p := preset{name: "row", flags: []string{"-outstanding", "7"}, variants: []variant{{"etcd, other", "etcd", []string{"-more"}}}}
	c := r.measure(t.Context(), &p, []string{"copycat", "etcd", "nats", "dragonboat"}, 1.5, 2, 3)
	names, all := calls(t, dir)
	want := []string{
		"copycat", "etcd", "etcd", "nats", // dragonboat
		"etcd", "etcd", "nats", "copycat",
		"etcd", "nats", "copycat", "etcd",
	}
	if !slices.Equal(names, want) {
		t.Errorf("order %v, want %v", names, want)
	}
	if strings.Count(all, "-outstanding 7 -seconds 1.5 -warmup 2 ") != 12 || strings.Count(all, " -more ") != 3 {
		t.Errorf("flags:\n%s", all)
	}
	if len(c.Contenders) != 5 || c.Contenders[1].Ratio["ops_per_second"].Median != 2 || len(c.Contenders[2].Runs) != 3 {
		t.Errorf("case %+v", c)
	}
	if k := c.Contenders[3]; len(k.Runs) != 0 || !strings.Contains(k.Failed, "it went wrong") {
		t.Errorf("the one that fails: %+v", k)
	}
	if k := c.Contenders[4]; k.Skipped != "no such module" {
		t.Errorf("the one that is absent: %+v", k)
	}
	if left, err := os.ReadDir(r.dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if !strings.Contains(progress.String(), "run 15 of 15") {
		t.Errorf("progress:\n%s", &progress)
	}
}

func TestContenders(t *testing.T) {
	t.Parallel()
	p := preset{only: []string{"etcd"}, variants: []variant{{"v", "nats", nil}, {"w", "copycat", nil}}}
	for _, c := range []struct {
		chosen []string
		want   string
	}{
		{[]string{"copycat", "etcd", "nats"}, "w etcd v"},
		{[]string{"nats", "etcd"}, "v etcd"},
		{[]string{"dragonboat"}, ""},
	} {
		var names []string
		for _, k := range first(contenders(&p, c.chosen)) {
			names = append(names, k.Name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%v: %q, want %q", c.chosen, got, c.want)
		}
	}
}

func first(k []report.Contender, _ []string) []report.Contender { return k }

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-h"}, 0, "backpressure"},
		{[]string{"-systems", "copycat,riak", "-scenario", "moon", "-rounds", "0"}, 2, "riak"},
		{[]string{"-scenario", "moon"}, 2, "moon"},
		{[]string{"-rounds", "0"}, 2, "rounds"},
		{[]string{"stray"}, 2, "stray"},
		{[]string{"-json", "/nonexistent/dir/x", "-systems", "copycat", "-match", "no case has this name", "-dir", "/nonexistent"}, 1, "nonexistent"},
	} {
		var out, progress bytes.Buffer
		if code := Run(t.Context(), c.args, &out, &progress); code != c.code || !strings.Contains(progress.String(), c.says) {
			t.Errorf("%v: exit code %d, says %s", c.args, code, &progress)
		}
	}
	var out, progress bytes.Buffer
	if code := Report(t.Context(), []string{"-json", "/nonexistent"}, &out, &progress); code != 1 {
		t.Errorf("report of nothing: exit code %d, %s", code, &progress)
	}
}

// TestBuildFails: the reason is the compiler's, and shows what is missing.
func TestBuildFails(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "bench", "peers", "etcd")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"go.mod": "module x\n\ngo 1.26.0\n", "main.go": "package main\n\nimport _ \"x/absent\"\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := build(t.Context(), root, t.TempDir(), "etcd"); err == nil || !strings.Contains(err.Error(), "x/absent") {
		t.Errorf("error %v", err)
	}
}

// TestTelling: a document does not name the files of the machine that made it.
func TestTelling(t *testing.T) {
	t.Parallel()
	got := Telling([]string{"-scenario", "lan", "-dir", "/somewhere", "--json=/x", "-match", "256 out", "-doc", "d.md", "-rounds=3"})
	if want := []string{"-scenario", "lan", "-match", `"256 out"`, "-rounds=3"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestMatch: a scenario may be run in part.
func TestMatch(t *testing.T) {
	t.Parallel()
	for match, want := range map[string]int{"": 6, "8 structures": 1, "1 structures|1000 structures": 2, "no such": 0} {
		if got := len(chosen(&options{match: match}, &scenario{cases: groups})); got != want {
			t.Errorf("%q takes %d cases, want %d", match, got, want)
		}
	}
}

// TestKept: a file holds the newest results of each scenario.
func TestKept(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "results.json")
	a, b := report.Comparison{Scenario: "a", Rounds: 1}, report.Comparison{Scenario: "b", Rounds: 1}
	all := put(put(nil, a), b)
	a.Rounds = 2
	if err := writeFile(name, put(all, a)); err != nil {
		t.Fatal(err)
	}
	got, err := readFile(name)
	if err != nil || len(got) != 2 || got[0].Rounds != 2 || got[1].Scenario != "b" {
		t.Errorf("%+v, %v", got, err)
	}
	if left, err := os.ReadDir(filepath.Dir(name)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestScenariosAreWhole: each case compares with CopyCat, and has a name of its own.
func TestScenariosAreWhole(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, s := range scenarios() {
		if names[s.name] || s.about == "" {
			t.Errorf("scenario %q is twice, or says nothing", s.name)
		}
		names[s.name] = true
		for _, p := range s.cases(&options{logBytes: 1 << 20, snapshotBytes: 1 << 20}) {
			k, _ := contenders(&p, systems)
			if len(k) == 0 || k[0].Name != copycat {
				t.Errorf("%s, %s: the first contender is not copycat: %+v", s.name, p.name, k)
			}
		}
	}
}

// TestWhy guards reasons that filled a page, or named directories that no reader
// has: of what a program said, what failed is told, from the run's directory on.
func TestWhy(t *testing.T) {
	t.Parallel()
	const dir = "/tmp/copycat-compare-77"
	starting := "run 1 of 1: x is starting: 3 nodes, 9 structures\n    1 s  warming up  5 operations/s\n"
	for _, c := range []struct{ said, want string }{
		{"", ""},
		{starting, ""},
		{starting + "run 1: open x: context deadline exceeded\n", "open x: context deadline exceeded"},
		{starting + "run 1: open " + dir + "/copycat-bench-123/node0/log: no space\n", "open node0/log: no space"},
		{starting + "run 1: open: remove " + dir + ": busy", "open: remove : busy"},
		{"run 1: structure 1: no space\nstructure 2: no space\nstructure 3: no space\n", "structure 1: no space (and 2 more lines)"},
		{"panic: write " + dir + "/copycat-bench-9/node1/tan: no space\n\ngoroutine 7 [running]:\nmain.x()\n", "panic: write node1/tan: no space"},
		{"./main.go:3:8: undefined: a\n./main.go:4:8: undefined: b\n", "./main.go:3:8: undefined: a / ./main.go:4:8: undefined: b"},
		{"one\ntwo\nthree\nfour\n", "two / three / four"},
		{"run 1: " + strings.Repeat("ä", 300), strings.Repeat("ä", whyLength) + " …"},
	} {
		if got := why(c.said, dir); got != c.want {
			t.Errorf("%q: %q, want %q", c.said, got, c.want)
		}
	}
}
