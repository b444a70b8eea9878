package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Table shows the runs of one plan to people: what was run, where, and a row
// for each run. With three or more, a row of medians follows.
func Table(w io.Writer, results []Result) error {
	var b strings.Builder
	if len(results) > 0 {
		describe(&b, &results[0])
	}
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "system\trun\top/s\tp50\tp99\tp99.9\tmax\tCPU µs/op\tcores\tothers\tallocs/op\tRSS\tdisk/payload\tsent/payload\terrors\t")
	for i := range results {
		row(t, &results[i], fmt.Sprint(results[i].Run))
	}
	if len(results) > 2 {
		m := median(results)
		row(t, &m, "median")
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
	fmt.Fprintf(b, "\n%d nodes, %s, %d B, %d outstanding in total, proposers: %s, %g s after %g s of warm-up\n",
		p.Nodes, plural(p.Structures, "structure"), p.Payload, p.Outstanding, p.Proposers, p.Seconds, p.Warmup)
	fmt.Fprintf(b, "%s, %s, %s %s, %s, fdatasync p50 %.0f µs (max %.0f), load average before %.1f\n",
		plural(m.Cores, "core"), m.GoVersion, m.System, m.Kernel, m.FileSystem, m.SyncP50, m.SyncMax, m.Load)
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

func row(t io.Writer, r *Result, run string) {
	errors := fmt.Sprint(r.Errors.Failed + r.Errors.Broken + r.Errors.Unfinished)
	if r.Errors.Warnings > 0 {
		errors += fmt.Sprintf("+%dw", r.Errors.Warnings)
	}
	fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t%.2f\t%.2f\t%.2f\t%d MB\t%.2f\t%.2f\t%s\t\n",
		r.System, run, thousands(r.OpsPerSecond), span(r.Latency.P50), span(r.Latency.P99), span(r.Latency.P999), span(r.Latency.Max),
		r.CPU, r.CoresUsed, r.CoresOthers, r.AllocsPerOp, r.RSSPeak>>20, r.DiskPerByte, r.SentPerByte, errors)
}

// span shows microseconds with three digits that matter.
func span(us float64) string {
	switch d := time.Duration(us * float64(time.Microsecond)); {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", us/1000)
	case d >= time.Millisecond:
		return fmt.Sprintf("%.2f ms", us/1000)
	}
	return fmt.Sprintf("%.0f µs", us)
}

func thousands(f float64) string {
	s := fmt.Sprintf("%.0f", f)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// median is, for each column by itself, the middle of the runs; of an even
// number, the lower one.
func median(results []Result) Result {
	middle := func(of func(*Result) float64) float64 {
		var all []float64
		for i := range results {
			all = append(all, of(&results[i]))
		}
		slices.Sort(all)
		return all[(len(all)-1)/2]
	}
	m := Result{System: results[0].System}
	m.OpsPerSecond = middle(func(r *Result) float64 { return r.OpsPerSecond })
	m.Latency.P50 = middle(func(r *Result) float64 { return r.Latency.P50 })
	m.Latency.P99 = middle(func(r *Result) float64 { return r.Latency.P99 })
	m.Latency.P999 = middle(func(r *Result) float64 { return r.Latency.P999 })
	m.Latency.Max = middle(func(r *Result) float64 { return r.Latency.Max })
	m.CPU = middle(func(r *Result) float64 { return r.CPU })
	m.CoresUsed = middle(func(r *Result) float64 { return r.CoresUsed })
	m.CoresOthers = middle(func(r *Result) float64 { return r.CoresOthers })
	m.AllocsPerOp = middle(func(r *Result) float64 { return r.AllocsPerOp })
	m.RSSPeak = uint64(middle(func(r *Result) float64 { return float64(r.RSSPeak) }))
	m.DiskPerByte = middle(func(r *Result) float64 { return r.DiskPerByte })
	m.SentPerByte = middle(func(r *Result) float64 { return r.SentPerByte })
	for i := range results {
		m.Errors.Failed += results[i].Errors.Failed
		m.Errors.Broken += results[i].Errors.Broken
		m.Errors.Unfinished += results[i].Errors.Unfinished
		m.Errors.Warnings += results[i].Errors.Warnings
	}
	return m
}
