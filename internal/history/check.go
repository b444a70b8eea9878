package history

import (
	"fmt"
	"slices"
	"time"
)

// Options of Check. Zero values mean the defaults.
type Options struct {
	// Bound is how long a proposal may take that was made after the faults
	// were over (Recorder.Calm). Zero: not asserted.
	Bound time.Duration
	// Grace is how long after the faults were over a proposal may still be
	// answered with a report: its session may have been ended during the
	// faults. Default Bound.
	Grace time.Duration
	// Context is how many events are printed before and after one. Default 3.
	Context int
	// Limit is how many violations of one rule are kept per structure. Default 20.
	Limit int
}

// checker checks one structure of a history.
type checker struct {
	h         *History
	o         Options
	report    *Report
	structure uint16
	found     map[Rule]int

	origin      int64
	calmAt      int64
	calm, ended bool
	endAt       int64
	live        map[Subscriber]bool

	logs     []*Log
	order    []ID
	witness  []place    // who first had it there
	index    map[ID]int // first place in the order, from 0
	base     int        // how many items of the order are the base's
	proposed map[ID]place
	reported map[ID]place // the first report
	walks    []*walk
	strays   []stray // seen by somebody, and not in the order
}

type stray struct {
	id ID
	at place
}

// Check checks a whole history. It does not change it; the same history gives
// the same report.
func Check(h *History, o Options) *Report {
	if o.Context <= 0 {
		o.Context = 3
	}
	if o.Limit <= 0 {
		o.Limit = 20
	}
	if o.Grace <= 0 {
		o.Grace = o.Bound
	}
	r := &Report{Suppressed: make(map[Rule]int), orders: make(map[uint16][]ID), Stats: Stats{Reported: make(map[Fate]int)}}
	all := checker{h: h, o: o, report: r, origin: h.origin(), live: h.survivors()}
	all.calmAt, all.calm = h.last(KindCalm)
	all.endAt, all.ended = h.last(KindEnd)
	all.count()
	if !all.ended {
		r.Skipped = append(r.Skipped, "lost, unaccounted (but for who unsubscribed), convergence: the run has no end")
	}
	if !all.calm || o.Bound <= 0 {
		r.Skipped = append(r.Skipped, "liveness: no calm, or no bound")
	}
	for _, s := range h.structures() {
		c := all
		c.structure, c.found = s, make(map[Rule]int)
		for i := range h.Logs {
			if h.Logs[i].Sub.Structure == s {
				c.logs = append(c.logs, &h.Logs[i])
			}
		}
		c.run()
		r.orders[s] = c.order
		r.Stats.Commits += len(c.order)
	}
	slices.SortStableFunc(r.Violations, func(a, b Violation) int { return a.compare(&b) })
	return r
}

func (c *checker) run() {
	c.collect()
	c.settle()
	for i := range c.logs {
		c.walks = append(c.walks, c.walk(i))
	}
	c.checkOrder()
	c.checkStored()
	c.checkReports()
	c.checkAccounts()
	c.checkLiveness()
	if !c.ended {
		return
	}
	if !slices.ContainsFunc(c.logs, func(l *Log) bool { return c.live[l.Sub] }) {
		c.report.Skipped = append(c.report.Skipped, fmt.Sprintf("lost, convergence: nobody survived in structure %d", c.structure))
		return
	}
	c.checkLost()
	c.checkConvergence()
}

// count fills the statistics.
func (c *checker) count() {
	s := &c.report.Stats
	last := c.origin
	for i := range c.h.Logs {
		l := &c.h.Logs[i]
		s.Subscribers++
		if c.live[l.Sub] {
			s.Survivors++
		}
		for k := range l.Events {
			e := &l.Events[k]
			last = max(last, e.At)
			switch e.Kind {
			case KindProposed:
				s.Proposals++
			case KindDelivered:
				s.Delivered++
			case KindLoaded:
				s.Loads++
			case KindMade:
				s.Made++
			case KindReported:
				s.Reported[e.Fate]++
			case KindRead:
				s.Reads++
			}
		}
	}
	for i := range c.h.Nodes {
		e := &c.h.Nodes[i]
		last = max(last, e.At)
		switch e.Kind {
		case KindFaultStart:
			s.Faults++
		case KindCrash, KindWipe:
			s.Crashes++
		case KindStored:
			s.Stored++
		}
	}
	c.report.Elapsed = time.Duration(last - c.origin)
}

// collect finds all proposals and reports, and what cannot be: a proposal
// under somebody else's name or twice, two reports about one proposal.
func (c *checker) collect() {
	c.proposed, c.reported = make(map[ID]place), make(map[ID]place)
	for i, l := range c.logs {
		next := uint64(1)
		for k := range l.Events {
			e, p := &l.Events[k], place{int32(i), int32(k)}
			switch e.Kind {
			case KindProposed:
				if e.ID.Writer != l.Sub.Writer() || e.ID.Seq != next {
					c.at(p, Violation{Rule: RuleRecording, ID: e.ID, What: fmt.Sprintf("%s recorded %s as its proposal number %d", l.Sub, e.ID, next)})
				}
				next = e.ID.Seq + 1
				if _, known := c.proposed[e.ID]; !known {
					c.proposed[e.ID] = p
				}
			case KindReported:
				if _, own := c.proposed[e.ID]; !own || e.ID.Writer != l.Sub.Writer() {
					c.at(p, Violation{Rule: RuleReport, ID: e.ID, What: fmt.Sprintf("%s got an error (%s) about %s, which it had not proposed", l.Sub, e.Fate, e.ID)})
					continue
				}
				if first, known := c.reported[e.ID]; known {
					c.at(p, Violation{Rule: RuleReport, ID: e.ID, What: fmt.Sprintf("%s got a second error (%s) about %s; the first said %s",
						l.Sub, e.Fate, e.ID, c.event(first).Fate)})
					continue
				}
				c.reported[e.ID] = p
			}
		}
	}
}

func (c *checker) event(p place) *Event { return &c.logs[p.log].Events[p.event] }
