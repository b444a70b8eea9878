package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/copycat-replication/copycat/bench/internal/report"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("plot", flag.ContinueOnError)
	f.SetOutput(stderr)
	file := f.String("json", "bench-results.json", "`file` of results")
	out := f.String("out", ".", "`directory` for the plots")
	format := f.String("format", "svg", "`kind` of file: svg, png or pdf")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if err := draw(*file, *out, *format, stdout); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func draw(file, out, format string, stdout io.Writer) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("results: %w", err)
	}
	defer f.Close() // it was only read
	all, err := report.ReadComparisons(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("plots: %w", err)
	}
	for i := range all {
		for _, d := range drawings(&all[i]) {
			if len(d.series) == 0 {
				continue
			}
			name, err := d.save(out, format)
			if err != nil {
				return fmt.Errorf("plot %s: %w", d.name, err)
			}
			fmt.Fprintln(stdout, name)
		}
	}
	return nil
}
