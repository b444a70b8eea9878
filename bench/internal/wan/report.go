package wan

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Report says how a network was emulated, and how well that held. Counters are
// those since the network began, or since ResetCounters.
type Report struct {
	Mode Mode   `json:"mode"`
	Why  string `json:"why_no_namespaces,omitempty"`
	// Congestion is what a socket says that it uses. With proxies it is the
	// machine's.
	Congestion   string `json:"congestion"`
	SocketBuffer int    `json:"socket_buffer_bytes,omitempty"`
	MTU          int    `json:"mtu,omitempty"`
	Realtime     bool   `json:"realtime_priority"`

	// Delivered counts packets (with segments that stayed together as one),
	// Late those of them that came more than a millisecond after they were due.
	Delivered uint64        `json:"delivered"`
	Late      uint64        `json:"late"`
	LateP50   time.Duration `json:"late_p50_ns"`
	LateP99   time.Duration `json:"late_p99_ns"`
	LateMax   time.Duration `json:"late_max_ns"`
	// Overrun counts packets that were dropped before the relay saw them,
	// Refused those that a device did not take, Strange those of no host. All
	// should be zero. Overrun is since the beginning.
	Overrun uint64 `json:"overrun"`
	Refused uint64 `json:"refused"`
	Strange uint64 `json:"strange"`
	// RelayCores is the processor time that the relay took.
	RelayCores float64 `json:"relay_cores"`
	Failure    string  `json:"failure,omitempty"`

	Links []LinkReport `json:"links"`
}

// LinkReport is one direction between two data centers, or the inside of one.
type LinkReport struct {
	From    int     `json:"from"`
	To      int     `json:"to"`
	Names   string  `json:"names"`
	Link    Link    `json:"link"`
	Traffic traffic `json:"traffic"`
	// Round trips, where they were measured: over this link and back.
	Wanted   time.Duration `json:"rtt_wanted_ns,omitempty"`
	Measured time.Duration `json:"rtt_measured_p50_ns,omitempty"`
	Worst    time.Duration `json:"rtt_measured_max_ns,omitempty"`
	Probes   int           `json:"probes,omitempty"`
	Answers  int           `json:"answers,omitempty"`
}

// ResetCounters starts the counters anew, as before a measured window.
func (n *Net) ResetCounters() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.backend.reset()
	}
}

// Report tells how the emulation did. With probes above zero it measures each
// link's round trip with so many packets, one after the other; this takes as
// long as they do, and wants a network at rest.
func (n *Net) Report(probes int) (*Report, error) {
	r := &Report{Mode: n.mode, Why: n.why}
	if n.mode == Namespaces {
		r.SocketBuffer = n.cfg.SocketBuffer
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, ErrClosed
	}
	for from, a := range n.cfg.Centers {
		for to, b := range n.cfg.Centers {
			if from == to && a.Hosts < 2 {
				continue
			}
			r.Links = append(r.Links, LinkReport{From: from, To: to, Names: a.Name + " → " + b.Name, Link: n.links[[2]int{from, to}]})
		}
	}
	n.backend.report(r)
	for i := range r.Links {
		if l := &r.Links[i]; probes > 0 && !l.Link.Cut {
			if err := n.measureLocked(l, probes); err != nil {
				return nil, fmt.Errorf("measure %s: %w", l.Names, err)
			}
		}
	}
	return r, nil
}

func (n *Net) measureLocked(l *LinkReport, probes int) error {
	there, back := l.Link, n.links[[2]int{l.To, l.From}]
	l.Wanted = there.Delay + back.Delay
	// What is longer than a jittered round trip behind a full queue is lost.
	wait := l.Wanted + there.Jitter + back.Jitter + 500*time.Millisecond
	took, err := n.backend.probe(n.nth(l.From, 0), n.nth(l.To, boolInt(l.From == l.To)), probes, wait)
	if err != nil {
		return err
	}
	l.Probes, l.Answers = probes, len(took)
	if len(took) > 0 {
		slices.Sort(took)
		l.Measured, l.Worst = took[len(took)/2], took[len(took)-1]
	}
	return nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// nth is the index of a data center's host.
func (n *Net) nth(center, i int) int {
	return slices.IndexFunc(n.hosts, func(h *Host) bool { return h.Center == center }) + i
}

// Write shows the report to a person.
func (r *Report) Write(w io.Writer) error {
	fmt.Fprintf(w, "network: %s, %s, %d packets, late by %v (p50), %v (p99), %v (max), %d by more than %v, relay %.2f cores\n",
		r.Mode, r.Congestion, r.Delivered, r.LateP50, r.LateP99, r.LateMax, r.Late, lateness, r.RelayCores)
	if n := r.Overrun + r.Refused + r.Strange; n > 0 || r.Failure != "" {
		fmt.Fprintf(w, "network: did not hold: %d overrun, %d refused, %d strange packets %s\n", r.Overrun, r.Refused, r.Strange, r.Failure)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "link\tround trip\tmeasured\tworst\tsegments\tMB\tlost\toverflowed\tcut off\t")
	for _, l := range r.Links {
		fmt.Fprintf(t, "%s\t%v\t%v\t%v\t%d\t%.1f\t%d\t%d\t%d\t\n", l.Names, l.Wanted, l.Measured.Round(10*time.Microsecond), l.Worst.Round(10*time.Microsecond),
			l.Traffic.Segments, float64(l.Traffic.Bytes)/1e6, l.Traffic.Lost, l.Traffic.Overflowed, l.Traffic.CutOff)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the network's report: %w", err)
	}
	return nil
}
