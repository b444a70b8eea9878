package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/report"
	"github.com/copycat-replication/copycat/bench/internal/wan"
)

// fault is what befalls the leader in the middle of a measurement.
type fault string

const (
	noFault fault = ""
	killed  fault = "killed"  // its process is, with SIGKILL
	cutOff  fault = "cut-off" // its data center is, and comes back
)

// String is what Set takes.
func (f *fault) String() string { return string(*f) }

// Set reads a fault from the command line.
func (f *fault) Set(s string) error {
	if *f = fault(s); !slices.Contains([]fault{noFault, killed, cutOff}, *f) {
		return fmt.Errorf("%q, need %s or %s", s, killed, cutOff)
	}
	return nil
}

const (
	// faultSeconds and faultWarmup bound a measurement with a fault: the lead goes
	// to where most proposals come from after ten seconds, and is to be where the
	// fault strikes, a third into the window.
	faultSeconds = 12
	faultWarmup  = 2

	// The shortest election time-out with default settings, and how many of the
	// longest round trips it lasts at least, up to five times as long
	// (raftgroup/pace.go). With a hair's
	// breadth, since what is measured of a link is a little longer than the link.
	shortElection      = time.Second
	electionRoundTrips = 5
	measuredExcess     = 1.02
	maxStretch         = 5
)

// errNoProgress says that nothing was committed while the leader was cut off.
var errNoProgress = errors.New("no commit without the leader's data center")

// election is the shortest election time-out over the longest round trip.
func (c *wanCase) election() time.Duration {
	longest := slices.Max(c.rtt[:])
	need := time.Duration(electionRoundTrips * measuredExcess * float64(longest))
	return shortElection * min(max(1, (need+shortElection-1)/shortElection), maxStretch)
}

// loadAndBreak puts load on from the first node of each data center but the
// leader's, breaks that, and fills the result: Silence is the longest time that
// one of those proposers had nothing applied; the rest is that of the one with
// the longest.
func (o *wanOptions) loadAndBreak(ctx context.Context, c wanCase, cluster *wanCluster, r *wanResult, before *wan.Report, stderr io.Writer) error {
	if err := cluster.subscribe(ctx, o.plan(c)); err != nil {
		return err
	}
	leader, err := cluster.leader()
	if err != nil || leader < 0 {
		return errors.Join(errNoLeader, err)
	}
	struck := cluster.nodes[leader]
	center := struck.host.Center
	var proposers, idle []*wanNode
	for i, n := range cluster.nodes {
		switch {
		case n.host.Center != center && i%c.perCenter == 0:
			proposers = append(proposers, n)
		case n != struck:
			idle = append(idle, n)
		}
	}
	cluster.net.ResetCounters()
	for _, n := range proposers {
		if _, err := n.ask(&nodeRequest{Do: "load", Hold: true}); err != nil {
			return fmt.Errorf("node %s: %w", n.host.Name, err)
		}
	}
	plan := o.plan(c)
	third := time.Duration(plan.Seconds / 3 * float64(time.Second))
	if err := pause(ctx, time.Duration(plan.Warmup*float64(time.Second))+third); err != nil {
		return err
	}
	if err := o.strike(ctx, c, cluster, struck, third, r, stderr); err != nil {
		return err
	}
	for _, n := range proposers {
		if _, err := n.ask(&nodeRequest{Do: "await"}); err != nil {
			return fmt.Errorf("node %s: %w", n.host.Name, err)
		}
	}
	// Only now may they stop: what is left of the voters is needed until all
	// loads are over.
	var longest *report.Result
	var place *wanNode
	var unwell error
	for _, n := range proposers {
		a, err := n.ask(&nodeRequest{Do: "result"})
		if err != nil {
			return fmt.Errorf("node %s: %w", n.host.Name, err)
		}
		fmt.Fprintf(stderr, "%s had nothing applied for %.0f ms\n", n.host.Name, a.Result.Silence)
		if a.Result.Errors.Any() {
			unwell = errors.Join(unwell, fmt.Errorf("node %s: %+v", n.host.Name, a.Result.Errors))
		}
		if longest == nil || a.Result.Silence > longest.Silence {
			longest, place = &a.Result, n
		}
	}
	after, err := cluster.net.Report(0)
	if err != nil {
		return err
	}
	r.take(*longest, after, before)
	r.Measure, r.Settings = "failover", fmt.Sprintf("the leader in %s was %s", centerName(center), c.fault)
	r.Place, r.Leader = centerName(place.host.Center), centerName(center)
	r.Nearest = min(c.rtt[0], c.rtt[1], c.rtt[2]).Microseconds()
	r.Election = float64(c.election().Milliseconds())
	return errors.Join(unwell, cluster.stopWatchers(append(idle, struck), r))
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// strike does to the leader what the case says.
func (o *wanOptions) strike(ctx context.Context, c wanCase, cluster *wanCluster, struck *wanNode, third time.Duration, r *wanResult, stderr io.Writer) error {
	still, err := struck.ask(&nodeRequest{Do: "status"})
	if err != nil {
		return err
	}
	if still.Status.Role != "leader" {
		return fmt.Errorf("%w that led it before the load", errNoLeader)
	}
	fmt.Fprintf(stderr, "%s is %s\n", struck.host.Name, c.fault)
	if c.fault == killed {
		if err := struck.cmd.Process.Kill(); err != nil {
			return fmt.Errorf("kill the leader: %w", err)
		}
		return nil
	}
	center := struck.host.Center
	var rest []int
	for i := range c.rtt {
		if i != center {
			rest = append(rest, i)
		}
	}
	cluster.net.Partition([]int{center}, rest)
	if err := pause(ctx, third); err != nil {
		return err
	}
	var reached uint64 // by those that were not cut off
	for _, n := range cluster.nodes {
		if n.host.Center == center {
			continue
		}
		a, err := n.ask(&nodeRequest{Do: "status"})
		if err != nil {
			return err
		}
		reached = max(reached, a.Status.Commits)
	}
	if reached <= still.Status.Commits {
		return fmt.Errorf("%w: those that are left have committed %d changes, as many as before", errNoProgress, reached)
	}
	cluster.net.Heal()
	healed := time.Now()
	for {
		a, err := struck.ask(&nodeRequest{Do: "status"})
		switch {
		case err != nil:
			return err
		case a.Status.Commits >= reached:
			r.Back = time.Since(healed).Seconds() * 1e3
			fmt.Fprintf(stderr, "%s has caught up %.0f ms after it was back\n", struck.host.Name, r.Back)
			return nil
		case time.Since(healed) > askTimeout:
			return fmt.Errorf("%w: %s has %d changes of %d since it is back", context.DeadlineExceeded, struck.host.Name, a.Status.Commits, reached)
		}
		if err := pause(ctx, look); err != nil {
			return err
		}
	}
}

// stopWatchers stops the nodes that only looked on, and takes in what they saw
// go wrong. One that was killed has nothing to say.
func (c *wanCluster) stopWatchers(nodes []*wanNode, r *wanResult) error {
	for _, n := range nodes {
		a, err := n.ask(&nodeRequest{Do: "stop"})
		if errors.Is(err, errNodeGone) {
			continue
		}
		if err != nil {
			return fmt.Errorf("node %s: %w", n.host.Name, err)
		}
		if r.Errors.Broken += a.Broken; r.Errors.First == "" {
			r.Errors.First = a.First
		}
	}
	return nil
}

// faultMedians says, for each case with a fault, how long commits stopped in the
// median of its runs, and how many election time-outs that is.
func faultMedians(w io.Writer, results []wanResult) error {
	var order []string
	of := make(map[string][]wanResult)
	for _, r := range results {
		if r.Election == 0 {
			continue
		}
		if _, seen := of[r.Case]; !seen {
			order = append(order, r.Case)
		}
		of[r.Case] = append(of[r.Case], r)
	}
	for _, name := range order {
		runs := of[name]
		slices.SortFunc(runs, func(a, b wanResult) int { return cmp.Compare(a.Silence, b.Silence) })
		median, least, most := runs[len(runs)/2].Silence, runs[0].Silence, runs[len(runs)-1].Silence
		_, err := fmt.Fprintf(w, "%s: without commits for %.0f ms (median of %d; %.0f to %.0f), which is %.2f of the shortest election time-out there, %.0f ms\n",
			name, median, len(runs), least, most, median/runs[0].Election, runs[0].Election)
		if err != nil {
			return err
		}
	}
	return nil
}
