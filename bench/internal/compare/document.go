package compare

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/copycat-replication/copycat/bench/internal/cli"
	"github.com/copycat-replication/copycat/bench/internal/report"
)

// rewrite replaces a scenario's tables in a document.
func rewrite(name string, c *report.Comparison) error {
	return report.Rewrite(name, c.Scenario, func(w io.Writer) error { return report.Markdown(w, c) })
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
	if code, done := cli.Flags(f, args, stderr); done {
		return code
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
