package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/compare"
	"github.com/copycat-replication/copycat/bench/internal/load"
	"github.com/copycat-replication/copycat/bench/internal/measure"
	"github.com/copycat-replication/copycat/bench/internal/report"
	"github.com/copycat-replication/copycat/bench/internal/wan"
)

const wanUsage = `bench wan measures CopyCat across data centers on one machine: three data centers,
one process for each node, each in a network namespace of its own behind an
emulated network (as root; without, behind proxies, which the result says).

Without -rtt it runs a list of cases:

  matrix      round trips of 30, 70 and 100 ms; 1 and 1,000 outstanding proposals
  lossy       the same with 0.1 % of packets lost, 1 ms of jitter, 100 Mbit/s
  bandwidth   100 ms and 500 Mbit/s everywhere, one node for each data center: how
              much of what a plain TCP connection gets through becomes commits
  killed      round trips of 30, 70 and 100 ms; SIGKILL of the leader's process while a
              node in each of the other data centers proposes: how long they have
              nothing applied
  killed-far  the same with round trips of 300 ms
  cut-off     round trips of 30, 70 and 100 ms; the leader's whole data center is cut
              off for a third of the window, and comes back

With -rtt it runs one case of one's own. A table goes to the terminal, progress and
how well the emulation held to stderr.

For example:
  wan -case matrix -runs 3
  wan -rtt 10ms,20ms,25ms -rate 100000000 -outstanding 1000 -payload 1024
  wan -runs 5 -json wan.jsonl -doc docs/performance.md

Flags:
`

// wanCase is one thing to measure.
type wanCase struct {
	name        string
	rtt         [3]time.Duration // between the first and second, first and third, second and third
	link        wan.Link         // without its delay
	perCenter   int
	payload     int
	outstanding int
	stream      bool // measure what a plain TCP connection gets through
	fault       fault
}

const (
	// relayMemory is how much this process may use before it collects garbage:
	// a collection stops the relay until ordinary threads, which compete with
	// the nodes' processes, have had their turn.
	relayMemory = 1 << 30

	wanDefaultPayload = 128
	streamSeconds     = 5
)

func wanCases() []wanCase {
	const ms = time.Millisecond
	matrix := [3]time.Duration{30 * ms, 70 * ms, 100 * ms}
	far := [3]time.Duration{100 * ms, 100 * ms, 100 * ms}
	farther := [3]time.Duration{300 * ms, 300 * ms, 300 * ms}
	lossy := wan.Link{Jitter: ms, Loss: 0.001, Rate: 100e6}
	return []wanCase{
		{"matrix", matrix, wan.Link{}, 2, wanDefaultPayload, 1, false, noFault},
		{"matrix", matrix, wan.Link{}, 2, wanDefaultPayload, 1000, false, noFault},
		{"lossy", matrix, lossy, 2, wanDefaultPayload, 1, false, noFault},
		{"lossy", matrix, lossy, 2, wanDefaultPayload, 1000, false, noFault},
		{"bandwidth", far, wan.Link{Rate: 500e6}, 1, 16 << 10, 1900, true, noFault},
		{"killed", matrix, wan.Link{}, 2, wanDefaultPayload, 16, false, killed},
		{"killed-far", farther, wan.Link{}, 2, wanDefaultPayload, 16, false, killed},
		{"cut-off", matrix, wan.Link{}, 2, wanDefaultPayload, 16, false, cutOff},
	}
}

// wanOptions is the command line.
type wanOptions struct {
	only, dir, json, doc, log, mode string
	realtime, words                 bool
	place                           string
	seconds, warmup                 float64
	runs                            int
	cases                           []wanCase
}

// wanResult is a result with the network that it was measured on. The usage of
// processor, memory and disk is that of the proposing node's process.
type wanResult struct {
	report.Result
	Case    string `json:"case"`
	Leader  string `json:"leader_center"` // at the end of the window, and where the proposer is
	Place   string `json:"proposer_center"`
	Nearest int64  `json:"nearest_rtt_us"` // from the proposer's data center to another
	// Stream is what a plain TCP connection got through, in payload bytes per
	// second, before the nodes were started; Share is the committed bytes' part of it.
	Stream float64 `json:"stream_bytes_per_second,omitempty"`
	Share  float64 `json:"share_of_stream,omitempty"`
	// Election is the shortest election time-out over the longest round trip, and
	// Back how long after its return a data center that was cut off had all that
	// was committed before it; both for a case with a fault.
	Election float64     `json:"election_timeout_ms,omitempty"`
	Back     float64     `json:"back_ms,omitempty"`
	Network  *wan.Report `json:"network"`
}

// wanMain is the command "bench wan".
func wanMain(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return runWAN(ctx, args, os.Stdout, os.Stderr)
}

func parseWAN(args []string, stderr io.Writer) (*wanOptions, error) {
	o := &wanOptions{}
	f := flag.NewFlagSet("bench wan", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprint(stderr, wanUsage)
		f.PrintDefaults()
	}
	var rtt string
	own := wanCase{name: "own"}
	f.StringVar(&o.only, "case", "", "run only the cases of this `name`")
	f.StringVar(&rtt, "rtt", "", "`durations` of the round trips between the first and second, first and third, second and third data center, such as 30ms,70ms,100ms")
	f.Float64Var(&own.link.Loss, "loss", 0, "with -rtt: `share` of packets lost between data centers")
	f.DurationVar(&own.link.Jitter, "jitter", 0, "with -rtt: the most that chance adds to a packet's `time`")
	f.Int64Var(&own.link.Rate, "rate", 0, "with -rtt: `bits` per second of each direction between two data centers; 0: no limit")
	f.IntVar(&own.perCenter, "nodes", 2, "with -rtt: `nodes` in each data center")
	f.IntVar(&own.payload, "payload", wanDefaultPayload, "with -rtt: `bytes` of a proposal")
	f.IntVar(&own.outstanding, "outstanding", 1, "with -rtt: `number` of proposals that wait for their commit")
	f.Var(&own.fault, "fault", "with -rtt: `what` befalls the leader: killed (its process) or cut-off (its data center)")
	f.BoolVar(&own.stream, "stream", false, "with -rtt: measure a plain TCP connection too")
	f.StringVar(&o.place, "proposer", "leader", "`where` the proposer is: next to the leader, or 1, 2 or 3 for a data center")
	f.Float64Var(&o.seconds, "seconds", 20, "`length` of the measured window")
	f.Float64Var(&o.warmup, "warmup", 5, "`seconds` of load before it")
	f.BoolVar(&o.words, "words", false, "payloads of words, which can be compressed; otherwise they are random")
	f.IntVar(&o.runs, "runs", 1, "`number` of runs of each case, each on new nodes; 0: none, write the table (-doc) of what was measured (-json)")
	f.StringVar(&o.mode, "mode", "", "`way` of emulation: namespaces or proxies; empty: namespaces if they can be had")
	f.BoolVar(&o.realtime, "realtime", false, "give this process, which relays, a real-time priority: delays hold better while the nodes use all processors, but on few of them it may take the machine for itself")
	f.StringVar(&o.dir, "dir", os.TempDir(), "`directory` for the nodes' files; what is made there is removed at the end")
	f.StringVar(&o.json, "json", "", "append results to this `file`, one JSON object a line")
	f.StringVar(&o.doc, "doc", "", "`file` whose table of wan is to be replaced, by all results of the -json file if there is one; empty: none")
	f.StringVar(&o.log, "log", "", "write the nodes' log of this `level` and above to stderr")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	err := o.choose(rtt, own)
	if f.NArg() > 0 {
		err = errors.Join(err, fmt.Errorf("not a flag: %q", f.Arg(0)))
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
	}
	return o, err
}

// choose picks the cases, and checks the rest.
func (o *wanOptions) choose(rtt string, own wanCase) error {
	var errs []error
	if o.place != "leader" && o.place != "1" && o.place != "2" && o.place != "3" {
		errs = append(errs, fmt.Errorf("proposer: %q, need leader, 1, 2 or 3", o.place))
	}
	if o.runs < 1 && (o.runs < 0 || o.json == "" || o.doc == "") {
		errs = append(errs, fmt.Errorf("runs: %d, need 1 or more, or 0 with -json and -doc", o.runs))
	}
	if rtt != "" {
		parts := strings.Split(rtt, ",")
		if len(parts) != len(own.rtt) {
			errs = append(errs, fmt.Errorf("rtt: %q, need three durations", rtt))
		}
		for i, p := range parts[:min(len(parts), len(own.rtt))] {
			var err error
			if own.rtt[i], err = time.ParseDuration(p); err != nil {
				errs = append(errs, fmt.Errorf("rtt: %w", err))
			}
		}
		o.cases = []wanCase{own}
	} else {
		for _, c := range wanCases() {
			if o.only == "" || c.name == o.only {
				o.cases = append(o.cases, c)
			}
		}
		if len(o.cases) == 0 {
			errs = append(errs, fmt.Errorf("case: %q is not known", o.only))
		}
	}
	for _, c := range o.cases {
		errs = append(errs, o.plan(c).Validate())
	}
	return errors.Join(errs...)
}

func (o *wanOptions) plan(c wanCase) load.Plan {
	p := load.Plan{
		Nodes: len(c.rtt) * c.perCenter, Structures: 1, Payload: c.payload, Outstanding: c.outstanding,
		Proposers: load.AtLeader, Seconds: o.seconds, Warmup: o.warmup, Words: o.words,
	}
	if c.fault != noFault {
		p.Seconds, p.Warmup = min(p.Seconds, faultSeconds), min(p.Warmup, faultWarmup)
	}
	return p
}

// runWAN is the command with everything handed in.
func runWAN(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	stderr = &lockedWriter{w: stderr}
	o, err := parseWAN(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	// The relay is in this process. What else runs here shall not keep it waiting.
	runtime.GOMAXPROCS(max(8, runtime.GOMAXPROCS(0)))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(relayMemory))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var results []wanResult
	code := 0
	for run := 1; run <= o.runs; run++ {
		for _, c := range o.cases {
			fmt.Fprintf(stderr, "run %d of %d: %s, %d outstanding\n", run, o.runs, c.name, c.outstanding)
			r, err := o.once(ctx, c, run, stderr)
			if err != nil {
				fmt.Fprintf(stderr, "%s: %v\n", c.name, err)
				code = 1
				continue
			}
			r.Command = strings.Join(append([]string{"bench wan"}, compare.Telling(args)...), " ")
			if err := appendJSON(o.json, r); err != nil {
				fmt.Fprintln(stderr, err)
				code = 1
			}
			if err := r.Network.Write(stderr); err != nil || r.Errors.Any() {
				code = 1
			}
			results = append(results, *r)
		}
	}
	if o.runs > 0 {
		err = wanTable(stdout, results)
	}
	if err == nil && o.doc != "" && (len(results) > 0 || o.runs == 0) {
		err = o.document(results)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return code
}

func appendJSON(file string, r *wanResult) (err error) {
	if file == "" {
		return nil
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return fmt.Errorf("keep result: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.Write(append(line, '\n'))
	return err
}

// once measures a case on a new network with new nodes.
func (o *wanOptions) once(ctx context.Context, c wanCase, run int, stderr io.Writer) (_ *wanResult, err error) {
	dir, err := os.MkdirTemp(o.dir, "copycat-bench-wan-")
	if err != nil {
		return nil, fmt.Errorf("directory for the nodes: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &wanResult{Case: c.name}
	r.Format, r.System, r.Run, r.Runs, r.Began = report.Format, "copycat", run, o.runs, time.Now().UTC()
	if r.Machine, err = measure.ReadMachine(dir); err != nil {
		return nil, err
	}
	network, err := wan.New(c.network(wan.Mode(o.mode), o.realtime))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	before, err := network.Report(10)
	if err != nil {
		return nil, err
	}
	if c.stream && network.Mode() == wan.Namespaces {
		if r.Stream, err = plainStream(network.Hosts()[0], network.Hosts()[len(network.Hosts())-1]); err != nil {
			return nil, err
		}
		fmt.Fprintf(stderr, "a plain TCP connection: %.1f MB/s\n", r.Stream/1e6)
	}
	cluster, err := startWAN(ctx, network, dir, o.log, stderr)
	if err != nil {
		return nil, err
	}
	defer cluster.close()
	put := o.load
	if c.fault != noFault {
		put = o.loadAndBreak
	}
	if err := put(ctx, c, cluster, r, before, stderr); err != nil {
		return nil, err
	}
	return r, nil
}

func (c *wanCase) network(mode wan.Mode, realtime bool) wan.Config {
	at := func(from, to int) time.Duration { return c.rtt[from+to-1] / 2 } // 0+1, 0+2, 1+2
	cfg := wan.Config{Mode: mode, Seed: 1, Realtime: realtime, Link: func(from, to int) wan.Link {
		if from == to {
			return wan.Link{}
		}
		l := c.link
		l.Delay = at(from, to)
		return l
	}}
	for i := range c.rtt {
		cfg.Centers = append(cfg.Centers, wan.Center{Name: centerName(i), Hosts: c.perCenter})
	}
	return cfg
}

// load puts the load on, and fills the result.
func (o *wanOptions) load(ctx context.Context, c wanCase, cluster *wanCluster, r *wanResult, before *wan.Report, stderr io.Writer) error {
	if err := cluster.subscribe(ctx, o.plan(c)); err != nil {
		return err
	}
	proposer, err := cluster.leader()
	if err != nil {
		return err
	}
	if o.place != "leader" {
		proposer = int(o.place[0]-'1') * c.perCenter
	}
	if proposer < 0 {
		return errors.New("the structure has no leader")
	}
	node := cluster.nodes[proposer]
	fmt.Fprintf(stderr, "proposing at %s for %.0f s\n", node.host.Name, o.warmup+o.seconds)
	cluster.net.ResetCounters()
	a, err := node.ask(&nodeRequest{Do: "load"})
	if err != nil {
		return err
	}
	after, err := cluster.net.Report(0)
	if err != nil {
		return err
	}
	r.take(a.Result, after, before)
	r.Place, r.Leader = centerName(node.host.Center), a.LeaderCenter
	for i := range c.rtt {
		if i != node.host.Center {
			rtt := c.rtt[i+node.host.Center-1].Microseconds()
			if r.Nearest == 0 || rtt < r.Nearest {
				r.Nearest = rtt
			}
		}
	}
	if r.Stream > 0 {
		r.Share = r.OpsPerSecond * float64(r.Plan.Payload) / r.Stream
	}
	answers, err := cluster.askAll(func(int) *nodeRequest { return &nodeRequest{Do: "stop"} })
	for i, x := range answers {
		if i == proposer {
			continue // its result has it
		}
		if r.Errors.Broken += x.Broken; r.Errors.First == "" {
			r.Errors.First = x.First
		}
	}
	return err
}

// take fills in what was measured, and what the links were like before it.
func (r *wanResult) take(measured report.Result, after, before *wan.Report) {
	for i := range after.Links {
		l, b := &after.Links[i], &before.Links[i]
		l.Wanted, l.Measured, l.Worst, l.Probes, l.Answers = b.Wanted, b.Measured, b.Worst, b.Probes, b.Answers
	}
	head := r.Result
	r.Result, r.Network = measured, after
	r.Format, r.System, r.Run, r.Runs, r.Began, r.Machine = head.Format, head.System, head.Run, head.Runs, head.Began, head.Machine
}

// plainStream sends for some seconds over one TCP connection, and returns
// payload bytes per second in the second half of them.
func plainStream(from, to *wan.Host) (rate float64, err error) {
	var l net.Listener
	err = to.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", to.Bind, to.StreamPort))
		return err
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	var out net.Conn
	err = from.Do(func() (err error) {
		out, err = net.DialTimeout("tcp", fmt.Sprintf("%s:%d", to.Address, to.StreamPort), askTimeout)
		return err
	})
	if err != nil {
		return 0, err
	}
	in, err := l.Accept()
	if err != nil {
		return 0, errors.Join(err, out.Close())
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		buf := make([]byte, 1<<20)
		for { // until the other end is closed
			if _, err := out.Write(buf); err != nil {
				return
			}
		}
	}()
	defer func() { err = errors.Join(err, in.Close(), out.Close()); <-sent }()
	buf := make([]byte, 1<<20)
	var n int
	began := time.Now()
	half, end := began.Add(streamSeconds*time.Second/2), began.Add(streamSeconds*time.Second)
	for now := began; now.Before(end); now = time.Now() {
		k, err := in.Read(buf)
		if err != nil {
			return 0, err
		}
		if now.After(half) {
			n += k
		}
	}
	return float64(n) / (streamSeconds / 2.0), nil
}

// wanTable shows the results.
func wanTable(w io.Writer, results []wanResult) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "case\temulation\tproposer\tleader\toutstanding\tpayload\top/s\tMB/s\tp50 ms\tp99 ms\tp99.9 ms\tnearest ms\tof a stream\twithout commits ms\terrors\t")
	for _, r := range results {
		share := "-"
		if r.Stream > 0 {
			share = fmt.Sprintf("%.0f %%", 100*r.Share)
		}
		silence := "-"
		if r.Election > 0 {
			silence = fmt.Sprintf("%.0f", r.Silence)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f\t%s\t%s\t%d\t\n",
			r.Case, r.Network.Mode, r.Place, r.Leader, r.Plan.Outstanding, r.Plan.Payload, r.OpsPerSecond, r.OpsPerSecond*float64(r.Plan.Payload)/1e6,
			r.Latency.P50/1e3, r.Latency.P99/1e3, r.Latency.P999/1e3, float64(r.Nearest)/1e3, share, silence,
			r.Errors.Failed+r.Errors.Broken+r.Errors.Unfinished)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return faultMedians(w, results)
}

// lockedWriter is shared with what copies the nodes' output.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// Write writes all of p at once.
func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
