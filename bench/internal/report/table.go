package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/copycat-replication/copycat/bench/internal/measure"
)

// Table shows the runs of one plan to people: what was run, where, and a row
// for each run. With three or more, a row of medians follows.
func Table(w io.Writer, results []Result) error {
	var b strings.Builder
	var metrics []Metric
	if len(results) > 0 {
		describe(&b, &results[0])
		metrics = Metrics(results[0].Measure)
	}
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "system\trun\t")
	for _, m := range metrics {
		fmt.Fprint(t, m.Name, "\t")
	}
	fmt.Fprintln(t, "errors\t")
	for i := range results {
		fmt.Fprintf(t, "%s\t%d\t", results[i].System, results[i].Run)
		for _, m := range metrics {
			fmt.Fprint(t, m.Show(m.Of(&results[i])), "\t")
		}
		fmt.Fprint(t, errorsOf(results[i:i+1]), "\t\n")
	}
	if len(results) > 2 {
		fmt.Fprintf(t, "%s\tmedian\t", results[0].System)
		for _, m := range metrics {
			fmt.Fprint(t, m.Show(Summarize(m, results).Median), "\t")
		}
		fmt.Fprint(t, errorsOf(results), "\t\n")
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	for _, r := range results {
		if r.Errors.First != "" {
			fmt.Fprintf(&b, "run %d: %d failed, %d out of order, %d unfinished, %d warnings; the first: %s\n",
				r.Run, r.Errors.Failed, r.Errors.Broken, r.Errors.Unfinished, r.Errors.Warnings, r.Errors.First)
		}
	}
	fmt.Fprintln(&b, "CPU is of this process: all replicas, all proposers and the harness together. \"others\" is the")
	fmt.Fprintln(&b, "number of cores that everything else on the machine used meanwhile: near 0, or the figures are low.")
	_, err := io.WriteString(w, b.String())
	if err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

func describe(b *strings.Builder, r *Result) {
	p, m := &r.Plan, &r.Machine
	load := fmt.Sprintf("%d outstanding in total", p.Outstanding)
	if p.Rate > 0 {
		load = fmt.Sprintf("%g due in a second, at most %s", p.Rate, load)
	}
	fmt.Fprintf(b, "\n%d nodes, %s, %d B, %s, proposers: %s, %g s after %g s of warm-up\n",
		p.Nodes, plural(p.Structures, "structure"), p.Payload, load, p.Proposers, p.Seconds, p.Warmup)
	fmt.Fprintf(b, "%s\n", describeMachine(m))
	if r.Settings != "" {
		fmt.Fprintf(b, "%s: %s\n", r.System, r.Settings)
	}
	fmt.Fprintln(b)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func errorsOf(results []Result) string {
	var errors, warnings uint64
	for _, r := range results {
		errors += r.Errors.Failed + r.Errors.Broken + r.Errors.Unfinished
		warnings += r.Errors.Warnings
	}
	if warnings > 0 {
		return fmt.Sprintf("%d+%dw", errors, warnings)
	}
	return fmt.Sprint(errors)
}

// Summary is what several runs say of one metric.
type Summary struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

// Summarize takes the middle of the runs and their extremes. Of an even number
// the middle is the lower one of two: a figure that was measured.
func Summarize(m Metric, results []Result) Summary {
	all := make([]float64, len(results))
	for i := range results {
		all[i] = m.Of(&results[i])
	}
	return summarize(all)
}

func summarize(all []float64) Summary {
	if len(all) == 0 {
		return Summary{}
	}
	all = slices.Clone(all)
	slices.Sort(all)
	return Summary{Median: all[(len(all)-1)/2], Least: all[0], Most: all[len(all)-1]}
}

func describeMachine(m *measure.Machine) string {
	return fmt.Sprintf("%s, %s, %s %s, %s, fdatasync p50 %.0f µs (max %.0f), three files side by side %s/s, load average before %.1f",
		plural(m.Cores, "core"), m.GoVersion, m.System, m.Kernel, m.FileSystem, m.SyncP50, m.SyncMax, size(m.DiskRate), m.Load)
}
