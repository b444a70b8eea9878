package procrig

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/copycat-replication/copycat/internal/history"
)

// probes is how many changes each subscription proposes after the faults.
const probes = 5

// Finish ends a run: it mends the network, lets stopped processes go on,
// brings dead nodes back with a subscription to each structure, has
// everybody's proposals go through within [Bound], waits until all subscribers
// agree, checks the history of the whole run, and shuts the nodes down.
func (r *Rig) Finish() *history.Report {
	r.t.Helper()
	r.Net.SetAll(r.opt.Link)
	for _, n := range r.Nodes {
		n.Continue()
	}
	for _, n := range r.Nodes {
		if n.Alive() || !n.started {
			continue
		}
		n.Start()
		for _, s := range r.structures {
			n.Subscribe(s)
		}
	}
	r.recorder.Calm()
	began := time.Now()
	bound := time.Duration(crowd() * float64(Bound))
	r.probe(bound)
	r.t.Logf("after the faults, everybody's proposals were back after %s", time.Since(began))
	r.converge()
	r.awaitSnapshots()
	r.recorder.End()
	report := r.check(max(bound, time.Duration(crowd()*float64(Bound))))
	for _, n := range r.Nodes {
		n.Shutdown()
	}
	return report
}

// crowd says by how much the bound grows because others use the machine: not
// at all up to four runnable tasks for a core, which three rigs make by
// themselves. At forty for two cores, a process waits for a second to be
// scheduled, and gossip's and raft's time-outs pass without any fault.
func crowd() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	var load float64
	if err != nil {
		return 1 // not Linux
	}
	if _, err := fmt.Sscan(string(text), &load); err != nil {
		return 1
	}
	return max(1, load/float64(4*runtime.NumCPU()))
}

func (r *Rig) subscriptions() []*Subscription {
	var out []*Subscription
	for _, n := range r.Nodes {
		if n.Alive() {
			out = append(out, n.subs...)
		}
	}
	return out
}

// probe has every subscription propose, and waits until it has no proposal
// without a fate. The checker measures how long each took.
func (r *Rig) probe(bound time.Duration) {
	r.t.Helper()
	for _, s := range r.subscriptions() {
		if err := s.Unload(); err != nil {
			r.t.Fatal(err)
		}
		if err := s.Propose(probes); err != nil {
			r.t.Fatal(err)
		}
	}
	r.Wait(bound+10*time.Second, "every proposal has a fate", func() (bool, string) {
		for _, s := range r.subscriptions() {
			st, err := s.State()
			if err != nil {
				return false, err.Error()
			}
			if st.Open > 0 {
				return false, fmt.Sprintf("node %d waits for %d", s.Node.Number, st.Open)
			}
		}
		return true, ""
	})
}

// awaitSnapshots waits for a snapshot of each structure of which several are due. How
// many commits a machine makes in the life of a leader, which asks for them twice a
// second, depends on the machine.
func (r *Rig) awaitSnapshots() {
	r.t.Helper()
	due := 3 * cmp.Or(r.opt.SnapshotEntries, math.MaxInt64/3)
	for _, s := range r.structures {
		r.Wait(2*time.Minute, "a snapshot of "+s.ID, func() (bool, string) {
			most := uint64(0)
			for _, n := range r.running() {
				st, err := n.Status()
				if err != nil {
					return false, err.Error()
				}
				x, _ := st.Structure(s.ID)
				if x.Snapshot > 0 {
					return true, ""
				}
				most = max(most, x.Commits)
			}
			return most <= due, fmt.Sprintf("%d commits, and no snapshot", most)
		})
	}
}

// converge waits until all subscriptions of a structure hold the same.
func (r *Rig) converge() {
	r.t.Helper()
	r.Wait(2*time.Minute, "all subscribers agree", func() (bool, string) {
		first := make(map[*Structure]SubscriptionState)
		for _, s := range r.subscriptions() {
			st, err := s.State()
			if err != nil {
				return false, err.Error()
			}
			want, known := first[s.Of]
			if !known {
				first[s.Of] = st
				continue
			}
			if st.Len != want.Len || st.Digest != want.Digest {
				return false, fmt.Sprintf("node %d has %d items (%x), another one has %d (%x)", s.Node.Number, st.Len, st.Digest, want.Len, want.Digest)
			}
		}
		return true, ""
	})
	for _, s := range r.subscriptions() {
		st, err := s.State()
		if err != nil {
			r.t.Fatal(err)
		}
		for _, text := range st.Troubles {
			r.t.Errorf("node %d, subscription %d: %s", s.Node.Number, s.number, text)
		}
	}
}

// check checks what all processes recorded.
func (r *Rig) check(bound time.Duration) *history.Report {
	r.t.Helper()
	h, err := r.history()
	if err != nil {
		r.t.Fatal(err)
	}
	report := history.Check(h, history.Options{Bound: bound})
	if bound > Bound {
		r.t.Logf("the machine is crowded: proposals had %s, not %s", bound, Bound)
	}
	if err := report.Err(); err != nil {
		r.t.Errorf("seed %d: %v", r.opt.Seed, err)
	}
	r.t.Logf("history: %+v; skipped %q", report.Stats, report.Skipped)
	return report
}

// history joins the files of all processes.
func (r *Rig) history() (*history.History, error) {
	files, err := filepath.Glob(filepath.Join(r.dir, "history-*.jsonl"))
	if err != nil {
		return nil, err
	}
	var all []*history.History
	for _, name := range files {
		h, err := readHistory(name)
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	return history.Merge(all...)
}

func readHistory(name string) (h *history.History, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return &history.History{}, err // its node never came up
	}
	if h, err = history.Read(f); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return h, nil
}
