package compare

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/copycat-replication/copycat/bench/internal/report"
)

// The lines around a scenario's tables in a document.
const (
	beginMark = "<!-- results:%s -->\n"
	endMark   = "<!-- end -->\n"
)

// errMark says that a document has no place for a scenario.
var errMark = errors.New("no such place in the document")

// rewrite replaces a scenario's tables in a document.
func rewrite(name string, c *report.Comparison) error {
	old, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("document: %w", err)
	}
	text, err := replace(old, c)
	if err != nil {
		return fmt.Errorf("document %s: %w", name, err)
	}
	if err := os.WriteFile(name, text, 0o644); err != nil {
		return fmt.Errorf("document: %w", err)
	}
	return nil
}

func replace(text []byte, c *report.Comparison) ([]byte, error) {
	begin := fmt.Appendf(nil, beginMark, c.Scenario)
	before, rest, ok := bytes.Cut(text, begin)
	if !ok {
		return nil, fmt.Errorf("%w: %s", errMark, bytes.TrimSpace(begin))
	}
	_, after, ok := bytes.Cut(rest, []byte(endMark))
	if !ok {
		return nil, fmt.Errorf("%w: %s after %s", errMark, endMark[:len(endMark)-1], bytes.TrimSpace(begin))
	}
	var b bytes.Buffer
	b.Write(before)
	b.Write(begin)
	if err := report.Markdown(&b, c); err != nil {
		return nil, err
	}
	b.WriteString("\n" + endMark)
	b.Write(after)
	return b.Bytes(), nil
}

const reportUsage = `bench report shows results that "bench compare" has kept: as Markdown on the
terminal, or with -doc in a document, with -plots as plots.

Flags:
`

// ReportMain shows earlier results, as the arguments say.
func ReportMain(args []string) int { return Report(context.Background(), args, os.Stdout, os.Stderr) }

// Report is ReportMain with everything handed in.
func Report(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("bench report", flag.ContinueOnError)
	f.SetOutput(stderr)
	file := f.String("json", "bench-results.json", "`file` of results")
	doc := f.String("doc", "", "`file` whose tables are to be replaced; empty: print them")
	plots := f.String("plots", "", "`directory` for plots; empty: none")
	f.Usage = func() {
		fmt.Fprint(stderr, reportUsage)
		f.PrintDefaults()
	}
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case f.NArg() > 0:
		fmt.Fprintf(stderr, "not a flag: %q\n", f.Arg(0))
		return 2
	}
	if err := show(ctx, *file, *doc, *plots, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func show(ctx context.Context, file, doc, plots string, stdout, stderr io.Writer) error {
	all, err := readFile(file)
	if err != nil {
		return err
	}
	for i := range all {
		for k := range all[i].Cases {
			all[i].Cases[k].Sum() // as this version does it
		}
		if doc != "" {
			err = rewrite(doc, &all[i])
		} else {
			fmt.Fprintf(stdout, "\n## %s\n", all[i].Scenario)
			err = report.Markdown(stdout, &all[i])
		}
		if err != nil {
			return err
		}
	}
	if plots == "" {
		return nil
	}
	root, err := source(ctx)
	if err != nil {
		return err
	}
	return plot(ctx, root, file, plots, stderr)
}
