package history

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// checkOrder checks the order itself, and what is seen beside it: once each,
// each proposed, each writer's in its order.
func (c *checker) checkOrder() {
	last := make(map[Writer]ID)
	for at, id := range c.order {
		p := c.witness[at]
		switch {
		case id.IsZero():
			c.at(p, Violation{Rule: RuleUnproposed, Place: at + 1, What: fmt.Sprintf("at place %d stand bytes that no writer made: %s", at+1, c.event(p).text())})
			continue
		case c.index[id] != at:
			c.at(p, Violation{Rule: RuleTwice, ID: id, Place: at + 1, What: fmt.Sprintf("%s stands in the order at places %d and %d", id, c.index[id]+1, at+1)})
			continue
		case id.IsBase():
			if at >= c.base {
				c.at(p, Violation{Rule: RuleOrder, ID: id, Place: at + 1, What: fmt.Sprintf("%s, an item of a base, stands behind commits at place %d", id, at+1)})
			}
			continue
		}
		c.checkProposed(id, p, at+1)
		if before := last[id.Writer]; before.Seq > id.Seq {
			c.at(p, Violation{Rule: RuleFIFO, ID: id, Place: at + 1, What: fmt.Sprintf("%s stands at place %d, behind %s, which was proposed after it", id, at+1, before)})
		} else {
			last[id.Writer] = id
		}
	}
	seen := make(map[ID]bool)
	for _, s := range c.strays {
		if seen[s.id] {
			continue
		}
		seen[s.id] = true
		if s.id.IsZero() {
			c.at(s.at, Violation{Rule: RuleUnproposed, What: "bytes that no writer made: " + c.event(s.at).text()})
		} else if !s.id.IsBase() {
			c.checkProposed(s.id, s.at, 0)
		}
	}
}

// checkProposed: somebody proposed what was delivered, and nobody was told that it never will be.
func (c *checker) checkProposed(id ID, p place, stands int) {
	if _, known := c.proposed[id]; !known {
		c.at(p, Violation{Rule: RuleUnproposed, ID: id, Place: stands, What: fmt.Sprintf("%s got %s, which nobody proposed to this structure", c.logs[p.log].Sub, id)})
	}
	if r, known := c.reported[id]; known && c.event(r).Fate.final() {
		c.at(r, Violation{Rule: RuleReport, ID: id, Place: stands, What: fmt.Sprintf("%s was reported as %s, and was delivered to %s", id, c.event(r).Fate, c.logs[p.log].Sub)})
	}
}

// checkStored checks the snapshots that nodes keep against their labels.
func (c *checker) checkStored() {
	for i := range c.h.Nodes {
		e := &c.h.Nodes[i]
		if e.Kind != KindStored || e.Structure != c.structure {
			continue
		}
		v := Violation{Rule: RuleSnapshot, At: e.At, Context: []string{"> " + e.describe(c.origin)}}
		f, want := e.fold(), c.base+int(e.N)
		switch {
		case f == nil:
			v.What = fmt.Sprintf("snapshot %d on n%d is none: %s", e.N, e.Node, e.text())
		case want > len(c.order):
			v.What = fmt.Sprintf("snapshot %d on n%d is ahead of all that was delivered: %d commits", e.N, e.Node, len(c.order)-c.base)
		case len(f.IDs) != want:
			v.What = fmt.Sprintf("snapshot %d on n%d holds %d items; the base has %d, so it should hold %d", e.N, e.Node, len(f.IDs), c.base, want)
		case !slices.Equal(f.IDs, c.order[:want]):
			at := 0
			for f.IDs[at] == c.order[at] {
				at++
			}
			v.ID, v.Place = f.IDs[at], at+1
			v.What = fmt.Sprintf("snapshot %d on n%d has %s at place %d, where the order has %s", e.N, e.Node, f.IDs[at], at+1, c.order[at])
		default:
			continue
		}
		if v.Place > 0 {
			v.Context = append(v.Context, c.near(v.Place))
		}
		c.add(v)
	}
}

// checkReports: a report about a proposal names one of the known fates.
func (c *checker) checkReports() {
	for i, l := range c.logs {
		for k := range l.Events {
			e := &l.Events[k]
			if e.Kind == KindReported && (e.Fate == FateNone || int(e.Fate) >= len(fateNames)) {
				c.at(place{int32(i), int32(k)}, Violation{Rule: RuleRecording, ID: e.ID, What: fmt.Sprintf("%s got an error about %s of a fate that is none", l.Sub, e.ID)})
			}
		}
	}
}

// checkAccounts: each proposal of a subscriber that lived to the end, or was
// closed in order, was delivered or reported.
func (c *checker) checkAccounts() {
	survived := slices.ContainsFunc(c.logs, func(l *Log) bool { return c.live[l.Sub] })
	for i, l := range c.logs {
		how := ClosingNone
		for k := range l.Events {
			if l.Events[k].Kind == KindClosed {
				how = l.Events[k].Close
			}
		}
		// What counts as delivered: for who unsubscribed, only what came back to it.
		delivered := func(id ID) bool { _, ok := c.index[id]; return ok }
		switch {
		case how == Unsubscribed:
			delivered = func(id ID) bool { _, ok := c.walks[i].since(id); return ok || c.walks[i].have[id] > 0 }
		case (how == ShutDown || how == CutShort) && c.ended && survived:
		case how == ClosingNone && c.ended && c.live[l.Sub]:
		default:
			continue
		}
		for k := range l.Events {
			e := &l.Events[k]
			if e.Kind != KindProposed || delivered(e.ID) {
				continue
			}
			if _, told := c.reported[e.ID]; told {
				continue
			}
			lived := "which lived to the end"
			if how != ClosingNone {
				lived = "whose subscription ended in order (" + how.String() + ")"
			}
			c.at(place{int32(i), int32(k)}, Violation{Rule: RuleUnaccounted, ID: e.ID, What: fmt.Sprintf("%s was neither delivered nor reported to %s, %s", e.ID, l.Sub, lived)})
		}
	}
}

// checkLiveness: what survivors proposed after the faults came back in time.
func (c *checker) checkLiveness() {
	if !c.calm || c.o.Bound <= 0 {
		return
	}
	strict := c.calmAt + int64(c.o.Grace)
	for i, l := range c.logs {
		if !c.live[l.Sub] {
			continue
		}
		for k := range l.Events {
			e := &l.Events[k]
			if e.Kind != KindProposed || e.At < c.calmAt {
				continue
			}
			c.report.Stats.AfterCalm++
			v := Violation{Rule: RuleLiveness, ID: e.ID}
			due := e.At + int64(c.o.Bound)
			at, done := c.walks[i].since(e.ID)
			report, told := c.reported[e.ID]
			switch {
			case done && at <= due:
				continue
			case done:
				v.What = fmt.Sprintf("%s came back to %s after %v; the bound is %v", e.ID, l.Sub, time.Duration(at-e.At), c.o.Bound)
			case told && (c.event(report).Fate == FateRefused || (e.At < strict && c.event(report).At <= due)):
				continue
			case told:
				v.What = fmt.Sprintf("%s, proposed by %s %v after the faults, was reported as %s", e.ID, l.Sub, time.Duration(e.At-c.calmAt), c.event(report).Fate)
			case c.ended && c.endAt > due:
				v.What = fmt.Sprintf("%s did not come back to %s within %v, nor at all", e.ID, l.Sub, c.o.Bound)
			default:
				continue // the record ends before it was due
			}
			c.at(place{int32(i), int32(k)}, v)
		}
	}
}

// checkLost: what anybody was delivered is in the final state of every survivor.
func (c *checker) checkLost() {
	for _, w := range c.walks {
		if !c.live[w.sub] {
			continue
		}
		lacks := func(at int) bool { return at >= w.at && c.index[c.order[at]] >= w.at }
		if w.off {
			lacks = func(at int) bool { return w.have[c.order[at]] == 0 }
		}
		for at := 0; at < len(c.order); at++ {
			from := at
			for at < len(c.order) && lacks(at) {
				at++
			}
			if at == from {
				continue
			}
			by := c.witness[from]
			c.add(Violation{
				Rule: RuleLost, Sub: w.sub, ID: c.order[from], Place: from + 1, At: c.endAt,
				What: fmt.Sprintf("%s ended without %d commits, places %d to %d; the first, %s, was delivered to %s",
					w.sub, at-from, from+1, at, c.order[from], c.logs[by.log].Sub),
				Context: append(append(c.around(by), c.around(place{int32(w.log), int32(len(c.logs[w.log].Events) - 1)})...), c.near(from+1)),
			})
		}
	}
	seen := make(map[ID]bool)
	for _, s := range c.strays {
		if seen[s.id] || s.id.IsZero() || s.id.IsBase() {
			continue
		}
		seen[s.id] = true
		var without []Subscriber
		for _, w := range c.walks {
			if c.live[w.sub] && w.have[s.id] == 0 {
				without = append(without, w.sub)
			}
		}
		if len(without) == 0 {
			continue
		}
		c.add(Violation{
			Rule: RuleLost, Sub: without[0], ID: s.id, At: c.endAt, Context: c.around(s.at),
			What: fmt.Sprintf("%s was delivered to %s; these ended without it: %s", s.id, c.logs[s.at.log].Sub, names(without)),
		})
	}
}

// checkConvergence: all survivors end with the same state.
func (c *checker) checkConvergence() {
	type group struct {
		state []ID
		subs  []Subscriber
		log   int
	}
	var groups []*group
	for _, w := range c.walks {
		if !c.live[w.sub] {
			continue
		}
		state := w.state()
		i := slices.IndexFunc(groups, func(g *group) bool { return slices.Equal(g.state, state) })
		if i < 0 {
			i = len(groups)
			groups = append(groups, &group{state: state, log: w.log})
		}
		groups[i].subs = append(groups[i].subs, w.sub)
	}
	if len(groups) < 2 {
		return
	}
	var b strings.Builder
	v := Violation{Rule: RuleConvergence, At: c.endAt}
	fmt.Fprintf(&b, "the survivors end with %d different states", len(groups))
	for _, g := range groups {
		fmt.Fprintf(&b, "; %d items, digest %016x: %s", len(g.state), NewFold(g.state).Digest, names(g.subs))
		v.Context = append(v.Context, c.around(place{int32(g.log), int32(len(c.logs[g.log].Events) - 1)})...)
	}
	v.Sub, v.What = groups[len(groups)-1].subs[0], b.String()
	c.add(v)
}
