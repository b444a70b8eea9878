package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/copycat-replication/copycat/bench/internal/load"
)

// Command is a system that can be measured.
type Command struct {
	Name  string // of the system, as results have it
	About string // for -h: what is run, in a few lines
	// Subscribers: there can be more or fewer of them than nodes.
	Subscribers bool
	// Flags adds the system's own flags; may be nil.
	Flags func(*flag.FlagSet)
	// Settings says what a reader of the result has to know of the system's
	// configuration. It is called after the flags were read; may be nil.
	Settings func() string
	// Open starts the system with all its nodes, and returns when each
	// structure has a leader and all its voters and can be proposed to. It
	// keeps its files under dir, which is its own and empty. Each Consumer of
	// the load is told what is applied at its node from then on.
	Open func(ctx context.Context, dir string, l *load.Load) (load.System, error)
}

// options is what the command line says.
type options struct {
	plan load.Plan
	dir  string
	runs int
	mode string

	fill   int64
	sample float64
	wake   int

	json, cpuProfile, memProfile, openProfile, trace string
}

const usage = `%s

One operation is one proposal, committed by a majority with its fsyncs, and
applied at its proposer. All nodes run in this process, and talk over loopback;
their files are in a temporary directory under -dir, which should be on the
disk that you care about. A table goes to the terminal, progress to stderr, and
with -json one JSON object a line for each run is appended to a file. CPU and
memory are of the process: all replicas, all proposers and the harness.

For example, each behind the name of this program:
  -outstanding 1                              latency of a single commit
  -outstanding 4096 -seconds 20 -runs 5       throughput, with medians
  -structures 64 -outstanding 4096            many structures
  -proposers follower -outstanding 256        proposals that are forwarded
  -rate 10000 -outstanding 16384              latency at a given load
  -measure idle -structures 1000              what structures cost that nobody uses

Flags:
`

// parse reads the command line. It has written the reason where it fails.
func parse(c *Command, args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.plan.Nodes, "nodes", 3, "`number` of nodes; all subscribe to all structures and apply")
	f.IntVar(&o.plan.Structures, "structures", 1, "`number` of data structures")
	f.IntVar(&o.plan.Payload, "payload", 128, "`bytes` of a proposal, 8 at least")
	f.IntVar(&o.plan.Outstanding, "outstanding", 256, "`number` of proposals under way at any time, over all proposers together;\nwith fewer than proposers, only as many structures are active and the rest idles")
	f.Float64Var(&o.plan.Rate, "rate", 0, "`number` of proposals in a second over all proposers together, as long as -outstanding has room; 0: as many\nas it has room for. Latency counts from when each was due")
	proposers := f.String("proposers", string(load.AtLeader), "`where` the proposers are: leader, follower (one for each structure) or all (one on each node)")
	f.IntVar(&o.plan.Subscribers, "subscribers", 0, "`number` of subscribers of each structure, number i on node i modulo -nodes; 0: one on each node;\nthe others only look on, and with fewer the other nodes' replicas have none")
	f.Float64Var(&o.plan.Seconds, "seconds", 10, "`length` of the measured window")
	f.Float64Var(&o.plan.Warmup, "warmup", 2, "`seconds` of load before it")
	f.StringVar(&o.mode, "measure", modeLoad, modeUsage)
	f.Int64Var(&o.fill, "fill", 256<<20, "`bytes` of payloads that are proposed before a recovery")
	f.Int64Var(&o.plan.State, "state", 0, "`bytes` of a consumer's snapshot; 0: a few")
	f.Float64Var(&o.sample, "sample", 0, "`seconds` between samples of memory and disk; 0: none")
	f.IntVar(&o.wake, "wake", 0, "`number` of structures that are woken at the end of -measure idle: one after the other, each is proposed to twice, and the\nlatencies of the first and of the second proposals are told")
	f.IntVar(&o.runs, "runs", 1, "`number` of runs, each on new nodes; with three or more, a row of medians")
	f.StringVar(&o.dir, "dir", os.TempDir(), "`directory` for the nodes' files; what is made there is removed at the end")
	f.StringVar(&o.json, "json", "", "append results to this `file`, one JSON object a line")
	f.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile of the measured window (of the last run) to this `file`")
	f.StringVar(&o.memProfile, "memprofile", "", "write a profile of all allocations up to the end of the window, and of what is still used then (of the last run), to this `file`")
	f.StringVar(&o.openProfile, "openprofile", "", "write a CPU profile of opening again, with -measure idle (of the last run), to this `file`")
	f.StringVar(&o.trace, "trace", "", "write an execution trace of the measured window (of the last run) to this `file`; keep -seconds small")
	if c.Flags != nil {
		c.Flags(f)
	}
	f.Usage = func() {
		fmt.Fprintf(stderr, usage, strings.TrimSpace(c.About))
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.plan.Proposers = load.Proposers(*proposers)
	if o.mode == modeFailover {
		o.plan.Proposers = load.AtAll
	}
	err := o.plan.Validate()
	switch o.mode {
	case modeLoad, modeIdle, modeFailover, modeRecovery:
	default:
		err = errors.Join(err, fmt.Errorf("measure: %q, need load, idle, failover or recovery", o.mode))
	}
	if o.fill < int64(o.plan.Payload) || o.sample < 0 || o.wake < 0 {
		err = errors.Join(err, fmt.Errorf("fill: %d bytes, need a payload at least; sample: %g seconds, wake: %d, need 0 or more", o.fill, o.sample, o.wake))
	}
	if o.runs < 1 {
		err = errors.Join(err, fmt.Errorf("runs: %d, need 1 or more", o.runs))
	}
	if o.plan.Subscribers != 0 && !c.Subscribers {
		err = errors.Join(err, fmt.Errorf("subscribers: %w: %s has one on each node", load.ErrUnsupported, c.Name))
	}
	if f.NArg() > 0 {
		err = errors.Join(err, fmt.Errorf("not a flag: %q", f.Arg(0)))
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return nil, err
	}
	return o, nil
}

// Check tells whether the command takes these flags.
func (c *Command) Check(args []string) error {
	_, err := parse(c, args, io.Discard)
	return err
}
