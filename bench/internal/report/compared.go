package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// shown are the metrics of a comparison's table: those that are compared, and
// those that tell how much the runs are worth.
func shown(measure string) (out []Metric) {
	for _, m := range Metrics(measure) {
		switch m.Key {
		case given.Key, disk.Key, share.Key, sent.Key, others.Key, stored.Key, memory1.Key, disk1.Key:
		default:
			if m.Ratio == 0 {
				continue
			}
		}
		out = append(out, m)
	}
	return out
}

// CaseTable shows a case to people at a terminal.
func CaseTable(w io.Writer, c *Case) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s    %s\n", c.Name, strings.Join(c.Flags, " "))
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	head, rows := table(c)
	for _, cells := range append([][]string{head}, rows...) {
		fmt.Fprintln(t, strings.Join(cells, "\t")+"\t")
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	for _, k := range c.Contenders {
		for _, why := range []string{k.Skipped, k.Failed} {
			if why != "" {
				fmt.Fprintf(&b, "%s: %s\n", k.Name, why)
			}
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// table has a row for each contender that ran: medians, the first metric with
// its spread, and the ratios of the first contender to it.
func table(c *Case) (head []string, rows [][]string) {
	metrics := shown(c.kind())
	head = append(head, "system")
	for i, m := range metrics {
		name := m.Name
		if i == 0 && repeated(c) {
			name += " (least to most)"
		}
		head = append(head, name)
	}
	head = append(head, "errors")
	var compared []Metric
	for _, m := range metrics {
		if m.Ratio != 0 && len(compared) < 2 || m.Key == cpu.Key {
			compared = append(compared, m)
			head = append(head, m.Name+" ratio")
		}
	}
	for i := range c.Contenders {
		k := &c.Contenders[i]
		if len(k.Runs) == 0 {
			continue
		}
		row := []string{k.Name}
		for i, m := range metrics {
			s := k.Summary[m.Key]
			cell := m.Show(s.Median)
			if i == 0 && len(k.Runs) > 1 {
				cell += fmt.Sprintf(" (%s to %s)", m.Show(s.Least), m.Show(s.Most))
			}
			row = append(row, cell)
		}
		row = append(row, errorsOf(k.Runs))
		for _, m := range compared {
			row = append(row, ratio(k, m))
		}
		rows = append(rows, row)
	}
	return head, rows
}

// repeated reports whether some contender ran more than once: one run has no spread.
func repeated(c *Case) bool {
	return slices.ContainsFunc(c.Contenders, func(k Contender) bool { return len(k.Runs) > 1 })
}

// ratio is the first contender's figure through this one's, with the spread that it has.
func ratio(k *Contender, m Metric) string {
	s, ok := k.Ratio[m.Key]
	switch {
	case !ok:
		return "-"
	case len(k.Runs) == 1:
		return digits(s.Median)
	}
	return fmt.Sprintf("%s (%s to %s)", digits(s.Median), digits(s.Least), digits(s.Most))
}

// Markdown is a comparison as a part of a document.
func Markdown(w io.Writer, c *Comparison) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n\n", c.About)
	fmt.Fprintf(&b, "Measured %s by `%s`: %s, alternating. %s: %s.\n", c.Began.Format("2006-01-02"), c.Command, plural(c.Rounds, "round"), c.Machine.Processor, describeMachine(&c.Machine))
	for i := range c.Cases {
		markdownCase(&b, &c.Cases[i])
	}
	settings := settingsOf(c)
	if len(settings) > 0 {
		b.WriteString("\nSettings: ")
		b.WriteString(strings.Join(settings, ". "))
		b.WriteString(".\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write comparison: %w", err)
	}
	return nil
}

func markdownCase(b *strings.Builder, c *Case) {
	fmt.Fprintf(b, "\n**%s** (`%s`)\n\n", c.Name, strings.Join(c.Flags, " "))
	head, rows := table(c)
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(head, " | "), " --- |"+strings.Repeat(" ---: |", len(head)-1))
	for _, cells := range rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
	for _, line := range verdicts(c) {
		fmt.Fprintf(b, "\n%s\n", line)
	}
	for _, k := range c.Contenders {
		for _, why := range []string{k.Skipped, k.Failed} {
			if why != "" {
				fmt.Fprintf(b, "\n%s: %s\n", k.Name, strings.Join(strings.Fields(why), " "))
			}
		}
	}
}

// judged are the metrics by which a case is decided. Where the rate was given, it
// is what the proposals waited and cost.
func judged(kind string) []Metric {
	switch kind {
	case fixedRate:
		return []Metric{p99, cpu}
	case overTime:
		return []Metric{memory2, disk2}
	}
	return Metrics(kind)[:1]
}

// verdicts name the best peer by each metric that decides, and say who is ahead.
func verdicts(c *Case) (lines []string) {
	if len(c.Contenders) < 2 || len(c.Contenders[0].Runs) == 0 {
		return nil
	}
	for _, m := range judged(c.kind()) {
		if k := bestPeer(c, m); k != nil {
			r := k.Ratio[m.Key]
			lines = append(lines, fmt.Sprintf("Best peer by %s: %s. %s has %s times its figure%s: %s.",
				m.Name, k.Name, c.Contenders[0].Name, digits(r.Median), spread(k, r), standing(k, m)))
		}
	}
	return lines
}

// bestPeer is the one with the best median; a variant of the first contender is no peer.
func bestPeer(c *Case, m Metric) (best *Contender) {
	base := family(c.Contenders[0].Name)
	for i := range c.Contenders[1:] {
		k := &c.Contenders[i+1]
		if _, compared := k.Ratio[m.Key]; !compared || family(k.Name) == base {
			continue
		}
		if best == nil || float64(m.Ratio)*(k.Summary[m.Key].Median-best.Summary[m.Key].Median) > 0 {
			best = k
		}
	}
	return best
}

func spread(k *Contender, r Summary) string {
	if len(k.Runs) == 1 {
		return ""
	}
	return fmt.Sprintf(" (%s to %s)", digits(r.Least), digits(r.Most))
}

// standing says who of the first contender and a peer is ahead.
func standing(k *Contender, m Metric) string {
	when := "in each round"
	if len(k.Runs) == 1 {
		when = "in the one round"
	}
	r := k.Ratio[m.Key]
	switch {
	case m.Ratio > 0 && r.Least > 1, m.Ratio < 0 && r.Most < 1:
		return "ahead " + when
	case m.Ratio > 0 && r.Most < 1, m.Ratio < 0 && r.Least > 1:
		return "**behind** " + when
	}
	return "even with it: the rounds disagree"
}

// family is the system that a variant is of.
func family(name string) string {
	first, _, _ := strings.Cut(name, ",")
	return first
}

func settingsOf(c *Comparison) (out []string) {
	seen := make(map[string]bool)
	for i := range c.Cases {
		for _, k := range c.Cases[i].Contenders {
			line := k.Name + ": " + k.Settings
			if k.Settings != "" && !seen[line] {
				seen[line] = true
				out = append(out, line)
			}
		}
	}
	return out
}

// Line is a run in a few words, for progress.
func Line(r *Result) string {
	var parts []string
	for _, m := range Metrics(r.Measure) {
		if m.Ratio != 0 && len(parts) < 4 {
			parts = append(parts, m.Name+" "+m.Show(m.Of(r)))
		}
	}
	line := "    " + strings.Join(parts, ", ")
	if r.Errors.Any() {
		line += fmt.Sprintf(", ERRORS: %s: %s", errorsOf([]Result{*r}), r.Errors.First)
	}
	return line
}
