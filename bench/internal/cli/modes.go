package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/load"
	"github.com/copycat-replication/copycat/bench/internal/measure"
	"github.com/copycat-replication/copycat/bench/internal/report"
)

// What -measure may be.
const (
	modeLoad     = "load"
	modeIdle     = "idle"
	modeFailover = "failover"
	modeRecovery = "recovery"
)

const modeUsage = `what is measured, one of these ` + "`words`" + `:
load      operations under a steady load
idle      structures that nothing is proposed to: -warmup seconds after they were
          created, the processor time of -seconds, and the memory; then -wake of them
          are proposed to; then all nodes are closed and opened again
failover  a third into the window the node that leads structure 0 is ended; how
          long the other nodes' proposers then have nothing applied. Implies
          -proposers all
recovery  -fill bytes are proposed and all nodes closed; how long they take from
          the start to the first new commit`

// errKill says that a system cannot measure a failover.
var errKill = errors.New("failover: its nodes cannot be ended one by one")

// measurement is one run in a directory of its own.
type measurement struct {
	command *Command
	o       *options
	dir     string
	result  *report.Result
	window  window
}

func (m *measurement) open(ctx context.Context, l *load.Load) (load.System, error) {
	sys, err := m.command.Open(ctx, m.dir, l)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", m.command.Name, err)
	}
	return sys, nil
}

// load measures a steady load, and a failover in the midst of it.
func (m *measurement) load(ctx context.Context) error {
	l := load.New(m.o.plan)
	sys, err := m.open(ctx, l)
	if err != nil {
		return err
	}
	hooks := load.Hooks{Start: m.window.start, Progress: m.window.progress, End: m.window.end}
	var killing chan error
	if m.o.mode == modeFailover {
		killing = make(chan error, 1)
		killer, ok := sys.(load.Killer)
		if !ok {
			return errors.Join(fmt.Errorf("%w: %s", errKill, m.command.Name), sys.Close())
		}
		hooks.Start = func() {
			m.window.start()
			after := time.Duration(m.o.plan.Seconds / 3 * float64(time.Second))
			go func() { // ends well before the window, or when the context does
				select {
				case <-time.After(after):
					killing <- kill(sys, killer, l)
				case <-ctx.Done():
					killing <- context.Cause(ctx)
				}
			}()
		}
	}
	err = l.Run(ctx, sys, hooks)
	m.window.profiles.stop() // where the window did not end by itself
	if killing != nil && err == nil {
		err = <-killing
	}
	if cerr := sys.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close %s: %w", m.command.Name, cerr)
	}
	if err = errors.Join(err, m.window.profiles.err); err != nil {
		return err
	}
	w := &m.window
	m.result.Add(l.Outcome(), w.after.Since(w.before), w.after.At.Sub(w.before.At), w.peak)
	m.result.Samples = w.samples
	return nil
}

func kill(sys load.System, killer load.Killer, l *load.Load) error {
	node, err := sys.Leader(0)
	if err != nil {
		return fmt.Errorf("failover: %w", err)
	}
	l.Gone(node)
	return killer.Kill(node)
}

// idle measures what structures cost that are not used.
func (m *measurement) idle(ctx context.Context) error {
	l := load.New(m.o.plan)
	var empty measure.Usage
	var goroutines int
	ready := time.Now()
	l.OnNodesReady(func() {
		debug.FreeOSMemory()
		empty, goroutines = measure.Read(), runtime.NumGoroutine()
		ready = time.Now()
	})
	sys, err := m.open(ctx, l)
	if err != nil {
		return err
	}
	idle := &report.Idle{Create: time.Since(ready).Seconds()}
	err = pause(ctx, m.o.plan.Warmup)
	m.window.start()
	if err == nil {
		err = pause(ctx, m.o.plan.Seconds)
	}
	m.window.end()
	debug.FreeOSMemory()
	full := measure.Read()
	fmt.Fprintf(m.window.stderr, "memory: %s\n", measure.DescribeMemory())
	replicas := float64(m.o.plan.Structures * m.o.plan.Nodes)
	used := m.window.after.Since(m.window.before)
	idle.CPU = used.CPU().Seconds() / m.window.after.At.Sub(m.window.before.At).Seconds() * 100
	idle.Memory = float64(int64(full.Memory)-int64(empty.Memory)) / replicas
	idle.Goroutines = float64(runtime.NumGoroutine()-goroutines) / replicas
	if err == nil {
		err = m.wake(ctx, l, sys, idle)
	}
	if cerr := sys.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close %s: %w", m.command.Name, cerr)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(m.window.stderr, "opening again\n")
	again := load.New(m.o.plan)
	again.Continue(l)
	reopened := time.Now()
	err = m.window.profiles.during(m.o.openProfile, func() error {
		sys, err = m.open(ctx, again)
		return err
	})
	if err != nil {
		return err
	}
	idle.Reopen = time.Since(reopened).Seconds()
	m.result.Idle = idle
	m.result.AddUsage(used, m.window.after.At.Sub(m.window.before.At), m.window.peak)
	if err := sys.Close(); err != nil {
		return fmt.Errorf("close %s: %w", m.command.Name, err)
	}
	return m.window.profiles.err
}

// wake measures how much longer a proposal takes to a structure that was idle. Where
// nobody can propose it measures nothing.
func (m *measurement) wake(ctx context.Context, l *load.Load, sys load.System, idle *report.Idle) error {
	if m.o.wake == 0 {
		return nil
	}
	fmt.Fprintf(m.window.stderr, "waking\n")
	w, err := l.Wake(ctx, sys, m.o.wake)
	switch {
	case errors.Is(err, load.ErrUnsupported):
		return nil
	case err != nil:
		return err
	}
	idle.Woken, idle.Awake = medianMicros(w.First), medianMicros(w.Next)
	return nil
}

func medianMicros(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2].Nanoseconds()) / 1000
}

func pause(ctx context.Context, seconds float64) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Duration(seconds * float64(time.Second))):
		return nil
	}
}

// recovery measures how long nodes take to come back with much to read.
func (m *measurement) recovery(ctx context.Context) error {
	l := load.New(m.o.plan)
	sys, err := m.open(ctx, l)
	if err != nil {
		return err
	}
	began := time.Now()
	err = l.Fill(ctx, sys, uint64(m.o.fill)/uint64(m.o.plan.Payload))
	filled := time.Since(began)
	if err == nil && m.o.plan.State > 0 {
		err = m.awaitSnapshots(ctx, sys)
	}
	if cerr := sys.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close %s: %w", m.command.Name, cerr)
	}
	if err != nil {
		return err
	}
	if o := l.Outcome(); o.Errors() > 0 {
		return fmt.Errorf("fill: %d failed, %d out of order: %w", o.Failed, o.Broken, o.FirstError)
	}
	size, err := diskUse(m.dir)
	if err != nil {
		return err
	}
	debug.FreeOSMemory()
	measure.ResetPeak()
	fmt.Fprintf(m.window.stderr, "filled in %.1f s, %d MB on disk; opening again\n", filled.Seconds(), size>>20)

	plan := m.o.plan
	plan.Outstanding, plan.Warmup = 1, 0
	again := load.New(plan)
	again.Continue(l)
	sys, err = m.open(ctx, again)
	if err != nil {
		return err
	}
	opened := again.Age()
	err = again.Run(ctx, sys, load.Hooks{Start: m.window.start, Progress: m.window.progress, End: m.window.end})
	if cerr := sys.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close %s: %w", m.command.Name, cerr)
	}
	if err != nil {
		return err
	}
	o := again.Outcome()
	w := &m.window
	m.result.Add(o, w.after.Since(w.before), w.after.At.Sub(w.before.At), w.peak)
	m.result.Recovery = &report.Recovery{Filled: m.o.fill, Disk: size, Fill: filled.Seconds(), Open: opened.Seconds(), FirstCommit: o.First.Seconds()}
	return nil
}

const (
	// snapshotPatience bounds the wait for the snapshots of a state on all nodes.
	snapshotPatience = 5 * time.Minute
	snapshotLook     = time.Second
)

var errNoSnapshot = errors.New("not every node has a snapshot")

// awaitSnapshots waits until every node has a snapshot of the state: what is
// closed before that comes back with its log alone.
func (m *measurement) awaitSnapshots(ctx context.Context, sys load.System) error {
	began, last := time.Now(), int64(-1)
	for time.Since(began) < snapshotPatience {
		if k, ok := sys.(load.Keeper); ok {
			if k.Kept(0) {
				return nil
			}
		} else { // they are there when they take their room, and nothing grows any more
			size, err := diskUse(m.dir)
			if err != nil {
				return err
			}
			if size >= int64(m.o.plan.Nodes)*m.o.plan.State && size == last {
				return nil
			}
			last = size
		}
		fmt.Fprintf(m.window.stderr, "%5.0f s  waiting for snapshots\n", time.Since(began).Seconds())
		if err := pause(ctx, snapshotLook.Seconds()); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w of %d bytes after %v", errNoSnapshot, m.o.plan.State, snapshotPatience)
}

// diskUse adds up what the files under a directory take, as far as they have
// not been removed meanwhile.
func diskUse(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				total += measure.Allocated(info)
			}
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("disk use: %w", err)
	}
	return total, nil
}
