package history

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ErrViolated says that a history breaks a promise.
var ErrViolated = errors.New("history breaks a promise")

// Rule is what the checker asserts; doc.go says what each means.
type Rule uint8

// The rules.
const (
	RuleOrder       Rule = iota + 1 // one total order
	RuleLoad                        // a load is the fold of a prefix of the order
	RuleFIFO                        // a subscriber's proposals keep their order
	RuleTwice                       // nothing twice
	RuleUnproposed                  // nothing that nobody proposed
	RuleLost                        // nothing lost that was delivered anywhere
	RuleSnapshot                    // a snapshot is the fold of the commits up to its N
	RuleReport                      // what is reported about a proposal is true
	RuleUnaccounted                 // each proposal is delivered or reported
	RuleConvergence                 // all survivors end with the same state
	RuleLiveness                    // after the faults, proposals go through in time
	RuleRecording                   // the history itself makes sense
)

var ruleNames = [...]string{
	"", "order", "load", "fifo", "twice", "unproposed", "lost", "snapshot", "report",
	"unaccounted", "convergence", "liveness", "recording",
}

// String names the rule.
func (r Rule) String() string {
	if r > 0 && int(r) < len(ruleNames) {
		return ruleNames[r]
	}
	return fmt.Sprintf("rule(%d)", uint8(r))
}

// Violation is one place where a history breaks a rule.
type Violation struct {
	Rule      Rule
	Structure uint16
	Sub       Subscriber // where it was seen; zero if at no subscriber
	ID        ID         // the proposal in question, if there is one
	Place     int        // in the order, from 1; 0 if there is none
	At        int64      // as in the events
	What      string     // the story in one line
	Context   []string   // some events around it; the event itself is marked with ">"
}

// String prints the violation and its context, in several lines.
func (v *Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: structure %d: %s", v.Rule, v.Structure, v.What)
	for _, c := range v.Context {
		b.WriteString("\n    ")
		b.WriteString(c)
	}
	return b.String()
}

func (v *Violation) compare(o *Violation) int {
	return cmp.Or(
		cmp.Compare(v.Structure, o.Structure), cmp.Compare(v.At, o.At), cmp.Compare(v.Rule, o.Rule),
		v.Sub.compare(o.Sub), v.ID.compare(o.ID), cmp.Compare(v.Place, o.Place), strings.Compare(v.What, o.What),
	)
}

// Stats says how much was checked: a check of nothing finds nothing.
type Stats struct {
	Subscribers, Survivors     int
	Proposals, Delivered       int
	Reported                   map[Fate]int
	Loads, Made, Stored, Reads int
	AfterCalm                  int // proposals that were held to the bound
	Commits                    int // length of the orders, bases included
	Faults, Crashes            int
}

// Report is what the checker found. The violations are sorted by structure and
// time: the first one is the best place to begin.
type Report struct {
	Violations []Violation
	Suppressed map[Rule]int // found, but above Options.Limit
	Skipped    []string     // what was not asserted, and why
	Stats      Stats
	Elapsed    time.Duration // from the first event to the last

	orders map[uint16][]ID
}

// Order returns the total order of a structure, its base in front, as far as
// anybody saw it. The slice must not be changed.
func (r *Report) Order(structure uint16) []ID { return r.orders[structure] }

// Err is nil if no rule was broken; else it wraps ErrViolated, and prints all
// violations.
func (r *Report) Err() error {
	if len(r.Violations) == 0 {
		return nil
	}
	return &violated{r}
}

type violated struct{ r *Report }

func (e *violated) Unwrap() error { return ErrViolated }

func (e *violated) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %d violations", ErrViolated, len(e.r.Violations))
	for i := range e.r.Violations {
		fmt.Fprintf(&b, "\n%s", &e.r.Violations[i])
	}
	for rule := range ruleNames {
		if n := e.r.Suppressed[Rule(rule)]; n > 0 {
			fmt.Fprintf(&b, "\n%s: %d more", Rule(rule), n)
		}
	}
	return b.String()
}

// add keeps a violation, unless there are enough of its rule in its structure.
func (c *checker) add(v Violation) {
	v.Structure = c.structure
	if c.found[v.Rule]++; c.found[v.Rule] > c.o.Limit {
		c.report.Suppressed[v.Rule]++
		return
	}
	c.report.Violations = append(c.report.Violations, v)
}

// place names an event: which log, and which of its events.
type place struct{ log, event int32 }

// at adds a violation that was seen at one event.
func (c *checker) at(p place, v Violation) {
	log := c.logs[p.log]
	e := &log.Events[p.event]
	v.Sub, v.At = log.Sub, e.At
	v.Context = c.around(p)
	if v.Place > 0 {
		v.Context = append(v.Context, c.near(v.Place))
	}
	c.add(v)
}

// around prints the events around one.
func (c *checker) around(p place) []string {
	log := c.logs[p.log]
	from, to := max(0, int(p.event)-c.o.Context), min(len(log.Events), int(p.event)+c.o.Context+1)
	out := []string{fmt.Sprintf("%s, events %d to %d of %d:", log.Sub, from+1, to, len(log.Events))}
	for i := from; i < to; i++ {
		mark := "  "
		if i == int(p.event) {
			mark = "> "
		}
		out = append(out, mark+log.Events[i].describe(c.origin))
	}
	return out
}

// near prints the order around a place (from 1).
func (c *checker) near(at int) string {
	from, to := max(0, at-1-c.o.Context), min(len(c.order), at+c.o.Context)
	if from >= to {
		return fmt.Sprintf("the order ends at place %d", len(c.order))
	}
	return fmt.Sprintf("the order from place %d: %v", from+1, c.order[from:to])
}

func names(subs []Subscriber) string {
	slices.SortFunc(subs, Subscriber.compare)
	var b strings.Builder
	for i, s := range subs {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(s.String())
	}
	return b.String()
}
