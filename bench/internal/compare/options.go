package compare

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

type options struct {
	scenarios []scenario
	systems   []string
	rounds    int
	seconds   float64
	warmup    float64
	match     string
	dir       string
	json      string
	plots     string
	doc       string

	logBytes, snapshotBytes int64
}

const usage = `bench compare runs CopyCat and its peers side by side, and reports medians,
their spread, and ratios of runs of the same round.

It needs the go command and this source tree: it builds CopyCat's bench and
those of the peers (bench/peers, each a module of its own). A peer that cannot
be built is reported and left out. Results go to a file (-json), tables to the
terminal, progress to stderr; with -plots also plots (SVG), with -doc also tables
into a document, between the lines <!-- results:NAME --> and <!-- end -->.

For example, from the root of the source tree:
  go run ./bench compare                    the rows of the lan scenario, five rounds: 20 minutes
  go run ./bench compare -scenario lan -match 4,096 -systems copycat,dragonboat -rounds 3 -seconds 2
  go run ./bench compare -scenario idle -match "100 structures|1000 structures" -rounds 1
  go run ./bench compare -scenario all -doc docs/performance.md -plots docs/performance

A scenario has cases, whose names are the heads of its tables, and which -match
picks; each case is one run for each system and round. The whole of groups, rate,
idle and recovery takes hours with the peers, and tens of GB of disk and memory.
Commits while a process is killed, and networks between data centers, are
measured by the commands failover and wan, since they take a process for each node.

Scenarios:
`

func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench compare", flag.ContinueOnError)
	f.SetOutput(stderr)
	names := f.String("scenario", "lan", "`names` of scenarios, with commas; all: every one but soak")
	chosen := f.String("systems", strings.Join(systems, ","), "`names` of the systems, with commas; ratios are of the first one")
	f.IntVar(&o.rounds, "rounds", 5, "`number` of rounds; with fewer than five say so where you show the figures")
	f.Float64Var(&o.seconds, "seconds", 0, "`length` of a run's window; 0: 5, or what the scenario needs")
	f.Float64Var(&o.warmup, "warmup", 0, "`seconds` before it; 0: 2, or what the scenario needs")
	f.StringVar(&o.match, "match", "", "only cases whose name contains this `text`, or one of several with | between them; a document then has those alone")
	f.StringVar(&o.dir, "dir", os.TempDir(), "`directory` for the nodes' files: on the disk that you care about")
	f.StringVar(&o.json, "json", "bench-results.json", "`file` of results; scenarios of an earlier one that are not run now stay in it")
	f.StringVar(&o.plots, "plots", "", "`directory` for plots; empty: none")
	f.StringVar(&o.doc, "doc", "", "`file` whose tables are to be replaced; empty: none")
	f.Int64Var(&o.logBytes, "log-bytes", 1<<30, "`size` of the log in the recovery scenario")
	f.Int64Var(&o.snapshotBytes, "snapshot-bytes", 1<<30, "`size` of the snapshot in the recovery and backpressure scenarios")
	f.Usage = func() {
		fmt.Fprint(stderr, usage)
		for _, s := range scenarios() {
			fmt.Fprintf(stderr, "  %-13s %s\n", s.name, s.about)
		}
		fmt.Fprintln(stderr, "\nFlags:")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	var errs []error
	check := func(ok bool, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	o.systems = strings.Split(*chosen, ",")
	for _, s := range o.systems {
		check(slices.Contains(systems, s), "systems: %q is none of %s", s, strings.Join(systems, ", "))
	}
	for _, name := range strings.Split(*names, ",") {
		known := false
		for _, s := range scenarios() {
			if name == s.name || (name == "all" && s.name != "soak") {
				o.scenarios, known = append(o.scenarios, s), true
			}
		}
		check(known, "scenario: %q is not known", name)
	}
	check(o.rounds >= 1, "rounds: %d, need 1 or more", o.rounds)
	check(o.seconds >= 0 && o.warmup >= 0, "seconds: %g, warmup: %g, need 0 or more", o.seconds, o.warmup)
	check(o.logBytes >= 1<<20 && o.snapshotBytes >= 1<<20, "log-bytes and snapshot-bytes: need 1 MB or more")
	check(f.NArg() == 0, "not a flag: %q", f.Arg(0))
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(stderr, err)
		return nil, err
	}
	return o, nil
}

// lengths are the window and the warm-up of a scenario's runs.
func (o *options) lengths(s *scenario) (seconds, warmup float64) {
	first := func(of ...float64) float64 {
		for _, f := range of {
			if f > 0 {
				return f
			}
		}
		return 0
	}
	return first(o.seconds, s.seconds, 5), first(o.warmup, s.warmup, 2)
}

// matches reports whether a case takes part.
func (o *options) matches(name string) bool {
	return slices.ContainsFunc(strings.Split(o.match, "|"), func(text string) bool { return strings.Contains(name, text) })
}
