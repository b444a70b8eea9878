package compare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/report"
)

// spare is how long a run may take beyond its window and warm-up: nodes and
// structures are started, a recovery's log is filled, all is closed.
const spare = 10 * time.Minute

// farewell is how long a run may take to end when it is told to.
const farewell = 30 * time.Second

// errRun says that a run brought no result.
var errRun = errors.New("no result")

// runner runs the programs.
type runner struct {
	programs map[string]string // by system
	broken   map[string]string // by system: why there is none
	dir      string            // for the nodes
	scratch  string
	stderr   io.Writer

	planned, done int
	began         time.Time
}

// contenders are those of a case, with the flags that each gets.
func contenders(p *preset, chosen []string) (out []report.Contender, system []string) {
	taken := map[string]bool{}
	add := func(name, of string, flags []string) {
		if slices.Contains(chosen, of) && !taken[name] {
			taken[name] = true
			out, system = append(out, report.Contender{Name: name, Flags: flags}), append(system, of)
		}
	}
	for _, s := range chosen {
		if p.only == nil || slices.Contains(p.only, s) {
			add(s, s, nil)
		}
		for _, v := range p.variants {
			if v.system == s {
				add(v.name, v.system, v.flags)
			}
		}
	}
	return out, system
}

// measure runs a case.
func (r *runner) measure(ctx context.Context, p *preset, chosen []string, seconds, warmup float64, rounds int) report.Case {
	c := report.Case{Name: p.name, Measure: p.kind, X: p.x}
	if c.Measure == "" {
		c.Measure = "load"
	}
	c.Flags = append(append(c.Flags, p.flags...), "-seconds", number(seconds), "-warmup", number(warmup))
	var system []string
	c.Contenders, system = contenders(p, chosen)
	for round := range rounds {
		for i := range c.Contenders {
			at := (i + round) % len(c.Contenders)
			k := &c.Contenders[at]
			if ctx.Err() != nil {
				k.Failed = "interrupted"
				continue
			}
			r.done++
			if why := r.broken[system[at]]; why != "" {
				k.Skipped = why
				continue
			}
			left := ""
			if r.done > 1 {
				left = fmt.Sprintf(", about %v left", (time.Since(r.began) / time.Duration(r.done-1) * time.Duration(r.planned-r.done+1)).Round(time.Minute))
			}
			fmt.Fprintf(r.stderr, "run %d of %d%s: %s: %s, round %d\n", r.done, r.planned, left, p.name, k.Name, round+1)
			limit := time.Duration((seconds+warmup)*float64(time.Second)) + spare
			result, err := r.once(ctx, system[at], append(append([]string(nil), c.Flags...), k.Flags...), limit)
			if err != nil {
				k.Failed = fmt.Sprintf("round %d: %v", round+1, err)
				fmt.Fprintln(r.stderr, k.Failed)
				continue
			}
			result.Run, result.Runs = round+1, rounds
			k.Runs = append(k.Runs, *result)
			fmt.Fprintln(r.stderr, report.Line(result))
		}
	}
	c.Sum()
	return c
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// once runs a program in a process of its own, whose memory and processor time
// are then the system's.
func (r *runner) once(ctx context.Context, system string, flags []string, limit time.Duration) (*report.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	file := filepath.Join(r.scratch, "result.jsonl")
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("earlier result: %w", err)
	}
	dir, err := os.MkdirTemp(r.dir, "copycat-compare-") // also what a run leaves behind that was killed goes with it
	if err != nil {
		return nil, fmt.Errorf("directory of a run: %w", err)
	}
	cmd := exec.CommandContext(ctx, r.programs[system], append(flags, "-dir", dir, "-json", file)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = farewell
	var said bytes.Buffer
	cmd.Stderr = &said
	runErr := cmd.Run()
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("directory of a run: %w", err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w: %s", errRun, runErr, why(said.String(), dir))
	}
	results, err := report.Read(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if len(results) != 1 { // a run with errors in it has a result, which counts them
		return nil, fmt.Errorf("%w: %d results: %s", errRun, len(results), why(said.String(), dir))
	}
	result := results[0]
	result.Command = strings.Join(append([]string{system}, flags...), " ")
	return &result, nil
}
