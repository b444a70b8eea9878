package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/copycat-replication/copycat/bench/internal/cli"
	"github.com/copycat-replication/copycat/bench/internal/compare"
)

const allUsage = `bench all measures everything that docs/performance.md shows, one after the
other, and writes it there: every scenario of bench compare, with an hour of soak
for each system, bench failover and bench wan. It takes most of a day, tens of GB
of disk and memory, and a machine that does nothing else. What fails is told at
the end, and does not keep the rest from being measured.

Flags:
`

// allOptions is the command line of "bench all".
type allOptions struct {
	runs             int
	soak             float64
	dir, doc, plots  string
	systems, results string
}

func allMain(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return runAll(ctx, args, os.Stdout, os.Stderr)
}

func runAll(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o allOptions
	f := flag.NewFlagSet("bench all", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.runs, "rounds", 5, "`number` of rounds, and of runs; the soak has one")
	f.Float64Var(&o.soak, "soak", 3600, "`seconds` of the soak")
	f.StringVar(&o.systems, "systems", "", "`names` of the systems, with commas; empty: all")
	f.StringVar(&o.dir, "dir", os.TempDir(), "`directory` for the nodes' files: on the disk that you care about")
	f.StringVar(&o.results, "results", ".", "`directory` for bench-results.json and wan.jsonl")
	f.StringVar(&o.doc, "doc", "docs/performance.md", "`file` whose tables are to be replaced")
	f.StringVar(&o.plots, "plots", "docs/performance", "`directory` for plots; empty: none")
	f.Usage = func() {
		fmt.Fprint(stderr, allUsage)
		f.PrintDefaults()
	}
	if code, done := cli.Flags(f, args, stderr); done {
		return code
	}
	code := 0
	for _, part := range o.parts() {
		fmt.Fprintf(stderr, "\nbench %s\n", part.name)
		if part.run(ctx, part.args, stdout, stderr) != 0 {
			fmt.Fprintf(stderr, "bench %s failed, at least in part\n", part.name)
			code = 1
		}
		if ctx.Err() != nil {
			return 1
		}
	}
	return code
}

// allPart is one of the commands that are run.
type allPart struct {
	name string
	run  func(ctx context.Context, args []string, stdout, stderr io.Writer) int
	args []string
}

// parts are the commands, with their flags.
func (o *allOptions) parts() []allPart {
	runs, doc := strconv.Itoa(o.runs), []string{"-dir", o.dir, "-doc", o.doc}
	compared := append([]string{"-json", filepath.Join(o.results, "bench-results.json"), "-plots", o.plots}, doc...)
	if o.systems != "" {
		compared = append(compared, "-systems", o.systems)
	}
	return []allPart{
		{"compare", compare.Run, append([]string{"-scenario", "all", "-rounds", runs}, compared...)},
		{"compare", compare.Run, append([]string{"-scenario", "soak", "-rounds", "1", "-seconds", strconv.FormatFloat(o.soak, 'f', -1, 64)}, compared...)},
		{"failover", runFailover, append([]string{"-runs", runs}, doc...)},
		{"wan", runWAN, append([]string{"-runs", runs, "-json", filepath.Join(o.results, "wan.jsonl")}, doc...)},
	}
}
