package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/measure"
	"github.com/copycat-replication/copycat/bench/internal/report"
)

// Main measures a system as the process's command line says, and returns the
// process's exit code: 1 if a run failed or lost something, 2 for a command
// line that cannot be used.
func (c *Command) Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return c.Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}

// Run is Main with everything handed in.
func (c *Command) Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(c, args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	var results []report.Result
	bad := false
	for run := 1; run <= o.runs; run++ {
		r, err := c.once(ctx, o, run, args, stderr)
		if err != nil {
			fmt.Fprintf(stderr, "run %d: %v\n", run, err)
			bad = true
			break
		}
		results = append(results, *r)
		bad = bad || r.Errors.Any()
		if err := Append(o.json, r); err != nil {
			fmt.Fprintln(stderr, err)
			bad = true
		}
	}
	if len(results) > 0 {
		if err := report.Table(stdout, results); err != nil {
			fmt.Fprintln(stderr, err)
			bad = true
		}
	}
	if bad {
		return 1
	}
	return 0
}

// Append adds a result to a file; without a name it does nothing.
func Append(file string, r *report.Result) (err error) {
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return fmt.Errorf("keep result: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("keep result: %w", cerr)
		}
	}()
	return r.Write(f)
}

// once opens the system in a directory of its own, loads it, closes it, and
// removes the directory.
func (c *Command) once(ctx context.Context, o *options, run int, args []string, stderr io.Writer) (_ *report.Result, err error) {
	dir, err := os.MkdirTemp(o.dir, "copycat-bench-")
	if err != nil {
		return nil, fmt.Errorf("directory for the nodes: %w", err)
	}
	defer func() {
		if rerr := os.RemoveAll(dir); err == nil && rerr != nil {
			err = fmt.Errorf("directory of the nodes: %w", rerr)
		}
	}()
	r := &report.Result{
		Format: report.Format, System: c.Name, Run: run, Runs: o.runs, Plan: o.plan, Measure: o.mode, Began: time.Now().UTC(),
		Command: strings.Join(append([]string{"bench"}, args...), " "),
	}
	if c.Settings != nil {
		r.Settings = c.Settings()
	}
	if r.Machine, err = measure.ReadMachine(dir); err != nil {
		return nil, err
	}
	debug.FreeOSMemory() // what an earlier run left behind
	measure.ResetPeak()

	fmt.Fprintf(stderr, "run %d of %d: %s is starting: %d nodes, %d structures\n", run, o.runs, c.Name, o.plan.Nodes, o.plan.Structures)
	m := &measurement{command: c, o: o, dir: dir, result: r}
	m.window = window{profiles: profiles{o: o, on: run == o.runs}, stderr: stderr, warmup: o.plan.Warmup, dir: dir, sample: o.sample}
	switch o.mode {
	case modeIdle:
		err = m.idle(ctx)
	case modeRecovery:
		err = m.recovery(ctx)
	default:
		err = m.load(ctx)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// window reads the counters at both ends of the measured window.
type window struct {
	profiles      profiles
	stderr        io.Writer
	warmup        float64
	before, after measure.Usage
	peak          uint64
	shown         uint64
	at            time.Duration

	dir     string
	sample  float64 // seconds between two samples; 0: none
	samples []report.Sample
	sampled struct {
		n  uint64
		at time.Duration
	}
}

func (w *window) start() {
	w.profiles.start()
	w.before = measure.Read()
}

func (w *window) end() {
	w.after, w.peak = measure.Read(), measure.PeakMemory()
	w.profiles.stop()
}

func (w *window) progress(elapsed time.Duration, n uint64) {
	phase := "measuring"
	if elapsed.Seconds() < w.warmup {
		phase = "warming up"
	}
	rate := float64(n-w.shown) / (elapsed - w.at).Seconds()
	w.shown, w.at = n, elapsed
	fmt.Fprintf(w.stderr, "%5.0f s  %s  %.0f operations/s\n", elapsed.Seconds(), phase, rate)
	if w.sample > 0 && (elapsed-w.sampled.at).Seconds() >= w.sample {
		w.look(elapsed, n)
	}
}

// look takes a sample: what memory and disk hold now, and how fast it went since the last one.
func (w *window) look(elapsed time.Duration, n uint64) {
	disk, err := diskUse(w.dir)
	if err != nil {
		fmt.Fprintln(w.stderr, err)
	}
	s := report.Sample{
		At: elapsed.Seconds(), Rate: float64(n-w.sampled.n) / (elapsed - w.sampled.at).Seconds(), Memory: measure.Read().Memory, Disk: disk,
	}
	w.samples = append(w.samples, s)
	w.sampled.n, w.sampled.at = n, elapsed
	fmt.Fprintf(w.stderr, "%5.0f s  memory %d MB, disk %d MB\n", s.At, s.Memory>>20, s.Disk>>20)
}
