package main

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
	"regexp"
	"strings"
	"time"
)

var (
	errSurvived = errors.New("a bug survived")
	errUsage    = errors.New("usage")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := check(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return
	case !errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
	}
	stop()
	if errors.Is(err, errSurvived) {
		os.Exit(1)
	}
	os.Exit(2)
}

// checker plants bugs and runs suites.
type checker struct {
	root  string
	dir   string // for what is generated
	seeds int
	limit time.Duration
	first bool
	news  io.Writer
}

// row is a bug and what each kind of suite said.
type row struct {
	bug      *bug
	verdicts [kinds][]verdict
	suites   [kinds][]suite
}

func check(ctx context.Context, args []string, out, news io.Writer) error {
	c := checker{news: news}
	flags := flag.NewFlagSet("mutation", flag.ContinueOnError)
	flags.SetOutput(news)
	names := flags.String("bug", "", "only bugs whose name matches this regular expression")
	control := flags.Bool("control", true, "first run the suites without any bug: they must be green")
	flags.BoolVar(&c.first, "first", false, "stop at the first suite that catches a bug")
	flags.IntVar(&c.seeds, "seeds", 30, "seeds of the simulation")
	flags.DurationVar(&c.limit, "limit", 2*time.Minute, "how long one suite may take")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return errUsage
	}
	wanted, err := regexp.Compile(*names)
	if err != nil {
		return fmt.Errorf("-bug: %w", err)
	}
	if c.root, err = moduleRoot(ctx); err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp("", "mutation-*"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(c.dir) }()

	var rows []row
	for i := range bugs {
		if b := &bugs[i]; wanted.MatchString(b.name) {
			suites, err := suitesOf(c.root, b, c.seeds)
			if err != nil {
				return err
			}
			rows = append(rows, row{bug: b, suites: suites})
		}
	}
	if *control {
		if err := c.control(ctx, rows); err != nil {
			return err
		}
	}
	survived := 0
	for i := range rows {
		if err := c.try(ctx, &rows[i]); err != nil {
			return err
		}
		if !rows[i].caught() {
			survived++
		}
	}
	if err := table(out, rows); err != nil {
		return err
	}
	if survived > 0 {
		return fmt.Errorf("%w: %d of %d", errSurvived, survived, len(rows))
	}
	return nil
}

func moduleRoot(ctx context.Context) (string, error) {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(mod))), nil
}

// control runs each suite as it is. One that is red or too slow without a bug
// proves nothing with one.
func (c *checker) control(ctx context.Context, rows []row) error {
	done := make(map[string]bool)
	for i := range rows {
		for _, suites := range rows[i].suites {
			for _, s := range suites {
				key := fmt.Sprint(s)
				if done[key] {
					continue
				}
				done[key] = true
				v, err := c.runSuite(ctx, &s, "")
				if err != nil {
					return err
				}
				_, _ = fmt.Fprintf(c.news, "no bug, %s of %s: %s\n", s.kind, s.pkg, v)
				if v.failed || v.late {
					return fmt.Errorf("without any bug, %s of %s: %s", s.kind, s.pkg, v)
				}
			}
		}
	}
	return nil
}

// try plants one bug and runs what might catch it.
func (c *checker) try(ctx context.Context, r *row) error {
	overlay, err := r.bug.plant(c.root, c.dir)
	if err != nil {
		return err
	}
	for k, suites := range r.suites {
		for i := range suites {
			v, err := c.runSuite(ctx, &suites[i], overlay)
			if err != nil {
				return fmt.Errorf("%s: %w", r.bug.name, err)
			}
			_, _ = fmt.Fprintf(c.news, "%s, %s of %s: %s\n", r.bug.name, suites[i].kind, suites[i].pkg, v)
			r.verdicts[k] = append(r.verdicts[k], v)
			if v.failed && c.first {
				return nil
			}
		}
	}
	return nil
}

func (c *checker) runSuite(ctx context.Context, s *suite, overlay string) (verdict, error) {
	binary := filepath.Join(c.dir, strings.ReplaceAll(s.pkg, "/", "-")+".test")
	if err := build(ctx, c.root, s.pkg, overlay, binary); err != nil {
		return verdict{}, err
	}
	v, err := s.run(ctx, c.root, binary, c.limit)
	if err == nil {
		err = ctx.Err() // interrupted: what was killed has caught nothing
	}
	return v, err
}
