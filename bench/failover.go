package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/cli"
	"github.com/copycat-replication/copycat/bench/internal/compare"
	"github.com/copycat-replication/copycat/bench/internal/load"
	"github.com/copycat-replication/copycat/bench/internal/measure"
	"github.com/copycat-replication/copycat/bench/internal/report"
	"github.com/copycat-replication/copycat/bench/internal/wan"
)

const failoverUsage = `bench failover measures how long commits stop when the process of the leader is
killed (SIGKILL): three nodes, one process each, over loopback, with default
settings. A proposer on another node goes on all the time; the result is the
longest time in which it had nothing applied. The same beside the peers, inside
one process, is a scenario of its own: bench compare -scenario failover.

Flags:
`

// failoverPart is the name of the part of a document that "bench failover -doc" writes.
const failoverPart = "killed"

type failoverOptions struct {
	plan           load.Plan
	runs           int
	dir, json, doc string
}

func failoverMain(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return runFailover(ctx, args, os.Stdout, os.Stderr)
}

func runFailover(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := failoverOptions{plan: load.Plan{Nodes: 3, Structures: 1, Proposers: load.AtLeader}}
	f := flag.NewFlagSet("bench failover", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.runs, "runs", 5, "`number` of runs, each on new nodes")
	f.IntVar(&o.plan.Payload, "payload", 128, "`bytes` of a proposal")
	f.IntVar(&o.plan.Outstanding, "outstanding", 16, "`number` of proposals under way")
	f.Float64Var(&o.plan.Seconds, "seconds", 9, "`length` of the window; the leader is killed after a third")
	f.Float64Var(&o.plan.Warmup, "warmup", 1, "`seconds` of load before it")
	f.StringVar(&o.dir, "dir", os.TempDir(), "`directory` for the nodes' files")
	f.StringVar(&o.json, "json", "", "append results to this `file`, one JSON object a line")
	f.StringVar(&o.doc, "doc", "", "`file` whose table of killed leaders is to be replaced; empty: none")
	f.Usage = func() {
		fmt.Fprint(stderr, failoverUsage)
		f.PrintDefaults()
	}
	if code, done := cli.Flags(f, args, stderr); done {
		return code
	}
	if err := errors.Join(o.plan.Validate(), atLeast("runs", o.runs, 1)); err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	if err := o.measure(ctx, args, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func atLeast(what string, n, least int) error {
	if n < least {
		return fmt.Errorf("%s: %d, need %d or more", what, n, least)
	}
	return nil
}

func (o *failoverOptions) measure(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var results []report.Result
	for run := 1; run <= o.runs; run++ {
		fmt.Fprintf(stderr, "run %d of %d\n", run, o.runs)
		r, err := o.once(ctx, stderr)
		if err != nil {
			return fmt.Errorf("run %d: %w", run, err)
		}
		r.Format, r.System, r.Settings, r.Measure = report.Format, "copycat", "a process for each node, SIGKILL of the leader's", "failover"
		r.Run, r.Runs, r.Command = run, o.runs, strings.Join(append([]string{"bench failover"}, compare.Telling(args)...), " ")
		results = append(results, *r)
		if err := cli.Append(o.json, r); err != nil {
			return err
		}
	}
	if err := report.Table(stdout, results); err != nil || o.doc == "" {
		return err
	}
	c := failoverComparison(results)
	return report.Rewrite(o.doc, failoverPart, func(w io.Writer) error { return report.Markdown(w, c) })
}

// failoverComparison is the runs in the form of documents. Nothing is compared:
// the peers have no process for each node here.
func failoverComparison(results []report.Result) *report.Comparison {
	first := &results[0]
	c := report.Comparison{
		Format: report.Format, Scenario: failoverPart, Command: "go run ./" + first.Command, Began: first.Began, Rounds: len(results), Machine: first.Machine,
		About: "A process for each node; that of the leader is killed (SIGKILL) a third into the window: the longest time that a proposer on another node had nothing applied.",
		Cases: []report.Case{{
			Name: "leader's process killed", Measure: "failover", Contenders: []report.Contender{{Name: first.System, Runs: results}},
			Flags: []string{"-outstanding", strconv.Itoa(first.Plan.Outstanding), "-payload", strconv.Itoa(first.Plan.Payload)},
		}},
	}
	c.Cases[0].Sum()
	return &c
}

var errNoLeader = errors.New("no node leads the structure")

// once kills one leader.
func (o *failoverOptions) once(ctx context.Context, stderr io.Writer) (_ *report.Result, err error) {
	dir, err := os.MkdirTemp(o.dir, "copycat-failover-")
	if err != nil {
		return nil, fmt.Errorf("directory for the nodes: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	machine, err := measure.ReadMachine(dir)
	if err != nil {
		return nil, err
	}
	began := time.Now().UTC()
	c, err := startProcesses(ctx, o.plan.Nodes, dir, stderr)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.subscribe(ctx, o.plan); err != nil {
		return nil, err
	}
	leader, err := c.leader()
	if err != nil || leader < 0 {
		return nil, errors.Join(errNoLeader, err)
	}
	proposer := c.nodes[(leader+1)%len(c.nodes)]
	type outcome struct {
		answer *nodeAnswer
		err    error
	}
	loaded := make(chan outcome, 1)
	go func() { // ends with the load, or with the process
		a, err := proposer.ask(&nodeRequest{Do: "load"})
		loaded <- outcome{a, err}
	}()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("load before the kill: %w", context.Cause(ctx))
	case <-time.After(time.Duration((o.plan.Warmup + o.plan.Seconds/3) * float64(time.Second))):
	}
	still, err := c.nodes[leader].ask(&nodeRequest{Do: "status"})
	if err != nil {
		return nil, err
	}
	if still.Status.Role != "leader" {
		return nil, fmt.Errorf("%w that led it before the load", errNoLeader)
	}
	if err := c.nodes[leader].cmd.Process.Kill(); err != nil {
		return nil, fmt.Errorf("kill the leader: %w", err)
	}
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("load after the kill: %w", context.Cause(ctx))
	case end := <-loaded:
		if end.err != nil {
			return nil, end.err
		}
		r := &end.answer.Result
		r.Machine, r.Began = machine, began
		return r, nil
	}
}

// startProcesses starts a process for each node on loopback.
func startProcesses(ctx context.Context, nodes int, dir string, stderr io.Writer) (_ *wanCluster, err error) {
	c := &wanCluster{}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var peers []string
	for i := range nodes {
		name := fmt.Sprintf("node%d", i)
		n := &wanNode{host: &wan.Host{Name: name}, cmd: exec.CommandContext(ctx, self)}
		n.cmd.Env, n.cmd.Stderr = append(os.Environ(), nodeVariable+"=1"), stderr
		if n.in, err = n.cmd.StdinPipe(); err != nil {
			return nil, err
		}
		out, err := n.cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := n.cmd.Start(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		c.nodes = append(c.nodes, n)
		n.lines = bufio.NewScanner(out)
		n.lines.Buffer(nil, 16<<20)
		s := &nodeStart{LAN: true}
		s.Config.Hostname, s.Config.Rack, s.Config.CopyCatDataDir, s.Config.PeersToContact = "127.0.0.1", name, filepath.Join(dir, name), peers
		if _, err := n.ask(&nodeRequest{Do: "start", Start: s}); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if i == 0 {
			a, err := n.ask(&nodeRequest{Do: "status"})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			peers = []string{a.Status.Gossip}
		}
	}
	return c, c.await(ctx, "all nodes see all", func(all []nodeStatus) bool {
		for _, s := range all {
			if s.Alive < len(all) {
				return false
			}
		}
		return true
	})
}
