package compare

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/measure"
	"github.com/copycat-replication/copycat/bench/internal/report"
)

// Main compares as the arguments say, and returns the process's exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Run(ctx, args, os.Stdout, os.Stderr)
}

// Run is Main with everything handed in.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if err := compare(ctx, o, args, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func compare(ctx context.Context, o *options, args []string, stdout, stderr io.Writer) (err error) {
	root, err := source(ctx)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "copycat-compare-")
	if err != nil {
		return fmt.Errorf("scratch directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	all, err := readFile(o.json)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	r := &runner{programs: map[string]string{}, broken: map[string]string{}, dir: o.dir, scratch: scratch, stderr: stderr}
	for _, s := range o.systems {
		fmt.Fprintf(stderr, "building %s\n", s)
		if r.programs[s], err = build(ctx, root, scratch, s); err != nil {
			fmt.Fprintln(stderr, err)
			r.broken[s] = err.Error()
		}
	}
	r.planned = plan(o)
	r.began = time.Now()
	for i := range o.scenarios {
		c, err := r.scenario(ctx, o, &o.scenarios[i], args, stdout, func(part report.Comparison) error {
			all = put(all, part)
			return writeFile(o.json, all)
		})
		if err != nil {
			return err
		}
		if o.doc != "" {
			if err := rewrite(o.doc, c); err != nil {
				return err
			}
		}
	}
	if o.plots != "" {
		return plot(ctx, root, o.json, o.plots, stderr)
	}
	return nil
}

// Telling leaves out of a command line what names files: where results went
// says nothing of them, and is different elsewhere.
func Telling(args []string) (out []string) {
	for i := 0; i < len(args); i++ {
		name, _, with := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if strings.HasPrefix(args[i], "-") && slices.Contains([]string{"dir", "json", "doc", "plots"}, name) {
			if !with {
				i++ // its value
			}
			continue
		}
		if strings.Contains(args[i], " ") {
			out = append(out, strconv.Quote(args[i]))
			continue
		}
		out = append(out, args[i])
	}
	return out
}

// plan counts the runs.
func plan(o *options) (n int) {
	for i := range o.scenarios {
		for _, p := range chosen(o, &o.scenarios[i]) {
			c, _ := contenders(&p, o.systems)
			n += len(c) * o.rounds
		}
	}
	return n
}

func chosen(o *options, s *scenario) (out []preset) {
	for _, p := range s.cases(o) {
		if o.matches(p.name) {
			out = append(out, p)
		}
	}
	return out
}

// scenario runs the cases of one, and keeps what there is after each of them.
func (r *runner) scenario(ctx context.Context, o *options, s *scenario, args []string, stdout io.Writer, keep func(report.Comparison) error) (*report.Comparison, error) {
	c := report.Comparison{
		Format: report.Format, Scenario: s.name, About: s.about, Began: time.Now().UTC(), Rounds: o.rounds,
		Command: strings.Join(append([]string{"go run ./bench compare"}, Telling(args)...), " "),
	}
	var err error
	if c.Machine, err = measure.ReadMachine(o.dir); err != nil {
		return nil, err
	}
	seconds, warmup := o.lengths(s)
	for _, p := range chosen(o, s) {
		k := r.measure(ctx, &p, o.systems, seconds, warmup, o.rounds)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("interrupted; what was finished is in the file: %w", err)
		}
		c.Cases = append(c.Cases, k)
		if err := errors.Join(report.CaseTable(stdout, &k), keep(c)); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

// put replaces a scenario's earlier results.
func put(all []report.Comparison, c report.Comparison) []report.Comparison {
	at := slices.IndexFunc(all, func(old report.Comparison) bool { return old.Scenario == c.Scenario })
	if at < 0 {
		return append(all, c)
	}
	all[at] = c
	return all
}

func readFile(name string) ([]report.Comparison, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	defer f.Close() // it was only read
	return report.ReadComparisons(f)
}

// writeFile replaces the file in one step: an interruption leaves the old one.
func writeFile(name string, all []report.Comparison) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("results: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = report.WriteComparisons(f, all)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("results: %w", err)
	}
	return os.Rename(f.Name(), name)
}

// plot has the plots made, by a module of its own: what it needs is not to
// enter the library's dependencies.
func plot(ctx context.Context, root, file, into string, stderr io.Writer) error {
	from, err := filepath.Abs(file)
	if err != nil {
		return fmt.Errorf("plots: %w", err)
	}
	to, err := filepath.Abs(into)
	if err != nil {
		return fmt.Errorf("plots: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "run", ".", "-json", from, "-out", to)
	cmd.Dir = filepath.Join(root, "bench", "plot")
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("plots: %w", err)
	}
	return nil
}
