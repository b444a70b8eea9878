package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/copycat-replication/copycat/bench/internal/report"
)

// wanPart is the name of the part of a document that "bench wan -doc" writes.
const wanPart = "wan"

// wanRow is a case with its runs.
type wanRow struct {
	first *wanResult
	runs  []wanResult
}

// wanRows puts the runs of the same case together, in the order of their first.
func wanRows(results []wanResult) (rows []*wanRow) {
	for i := range results {
		r := &results[i]
		at := slices.IndexFunc(rows, func(row *wanRow) bool {
			f := row.first
			return f.Case == r.Case && f.Plan == r.Plan && f.Network.Mode == r.Network.Mode && f.Nearest == r.Nearest && (f.Place == f.Leader) == (r.Place == r.Leader)
		})
		if at < 0 {
			at = len(rows)
			rows = append(rows, &wanRow{first: r})
		}
		rows[at].runs = append(rows[at].runs, *r)
	}
	return rows
}

// of is what the runs of a row say of one figure: the median, and the extremes
// where there are some.
func (w *wanRow) of(show func(float64) string, figure func(*wanResult) float64) string {
	all := make([]float64, len(w.runs))
	for i := range w.runs {
		all[i] = figure(&w.runs[i])
	}
	slices.Sort(all)
	text := show(all[(len(all)-1)/2])
	if len(all) > 1 {
		text += fmt.Sprintf(" (%s to %s)", show(all[0]), show(all[len(all)-1]))
	}
	return text
}

func figure(unit string, digits int) func(float64) string {
	return func(f float64) string { return fmt.Sprintf("%.*f%s", digits, f, unit) }
}

// cells are the row of a document's table. What a case does not measure is left out.
func (w *wanRow) cells() []string {
	f := w.first
	out := []string{
		f.Case, fmt.Sprint(f.Plan.Outstanding), fmt.Sprintf("%d B", f.Plan.Payload), fmt.Sprint(len(w.runs)),
		w.of(figure("", 0), func(r *wanResult) float64 { return r.OpsPerSecond }),
		w.of(figure(" ms", 1), func(r *wanResult) float64 { return r.Latency.P50 / 1e3 }),
		w.of(figure(" ms", 1), func(r *wanResult) float64 { return r.Latency.P99 / 1e3 }),
	}
	nearest, stream, silence, elections, back := fmt.Sprintf("%.0f ms", float64(f.Nearest)/1e3), "-", "-", "-", "-"
	if f.Stream > 0 {
		stream = w.of(figure(" %", 0), func(r *wanResult) float64 { return 100 * r.Share })
	}
	if f.Election > 0 { // latencies with a fault in the midst say nothing of the network
		out[5], out[6], nearest = "-", "-", "-"
		silence = w.of(figure(" s", 2), func(r *wanResult) float64 { return r.Silence / 1e3 })
		elections = w.of(figure("", 2), func(r *wanResult) float64 { return r.Silence / r.Election })
	}
	if f.Back > 0 {
		back = w.of(figure(" s", 1), func(r *wanResult) float64 { return r.Back / 1e3 })
	}
	var lost, overflowed, refused uint64
	errs := uint64(0)
	for i := range w.runs {
		r := &w.runs[i]
		errs += r.Errors.Failed + r.Errors.Broken + r.Errors.Unfinished
		refused += r.Network.Overrun + r.Network.Refused + r.Network.Strange
		for _, l := range r.Network.Links {
			lost, overflowed = lost+l.Traffic.Lost, overflowed+l.Traffic.Overflowed
		}
	}
	late := w.of(figure(" ms", 2), func(r *wanResult) float64 { return r.Network.LateP99.Seconds() * 1e3 })
	return append(out, nearest, stream, silence, elections, back, late, fmt.Sprintf("%d, %d, %d", lost, overflowed, refused), fmt.Sprint(errs))
}

var wanHead = []string{
	"case", "outstanding", "payload", "runs", "op/s", "p50", "p99", "RTT to the nearest", "of a plain TCP stream",
	"without commits", "in election time-outs", "caught up after", "relay late, p99", "packets lost, overflowed, refused", "errors",
}

// wanMarkdown is the part of a document that tells of the results.
func wanMarkdown(w io.Writer, results []wanResult) error {
	if len(results) == 0 {
		return errors.New("no results to write")
	}
	var b strings.Builder
	b.WriteString("\nA process for each node, behind an emulated network; the proposer is next to the leader, and with a fault in each of the other data centers.\n")
	b.WriteString("With more than one run: medians, with the least and the most.\n\n")
	var commands, networks []string
	add := func(to *[]string, line string) {
		if !slices.Contains(*to, line) {
			*to = append(*to, line)
		}
	}
	for i := range results {
		r := &results[i]
		add(&commands, "`go run ./"+r.Command+"`")
		line := fmt.Sprintf("%s, congestion control %s", r.Network.Mode, r.Network.Congestion)
		if r.Network.Why != "" {
			line += " (no namespaces: " + r.Network.Why + ")"
		}
		add(&networks, line)
	}
	m := &results[0].Machine
	fmt.Fprintf(&b, "Measured %s by %s. Emulation: %s. %s: %d cores, %s, %s %s, %s, fdatasync p50 %.0f µs, load average before %.1f.\n\n",
		results[0].Began.Format("2006-01-02"), strings.Join(commands, ", "), strings.Join(networks, "; "),
		m.Processor, m.Cores, m.GoVersion, m.System, m.Kernel, m.FileSystem, m.SyncP50, m.Load)
	fmt.Fprintf(&b, "| %s |\n| --- |%s\n", strings.Join(wanHead, " | "), strings.Repeat(" ---: |", len(wanHead)-1))
	for _, row := range wanRows(results) {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row.cells(), " | "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// document writes the table: of all results of the file, if there is one, since
// they are measured in parts; otherwise of those of this run.
func (o *wanOptions) document(results []wanResult) error {
	if o.json != "" {
		var err error
		if results, err = readWAN(o.json); err != nil {
			return err
		}
	}
	return report.Rewrite(o.doc, wanPart, func(w io.Writer) error { return wanMarkdown(w, results) })
}

// readWAN reads what appendJSON wrote.
func readWAN(file string) (out []wanResult, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	defer f.Close() // it was only read
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var r wanResult
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("results in %s: %w", file, err)
		}
		if r.Format > report.Format || r.Network == nil {
			return nil, fmt.Errorf("results in %s: format %d: %w", file, r.Format, report.ErrNewerFormat)
		}
		out = append(out, r)
	}
	return out, lines.Err()
}
