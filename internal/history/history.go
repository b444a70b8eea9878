package history

import (
	"cmp"
	"fmt"
	"slices"
)

// Log is what happened to one subscriber, in its own order.
type Log struct {
	Sub    Subscriber
	Events []Event
}

// History is what happened in a run. One that is made by hand gives every
// event the Extra that its kind needs.
type History struct {
	Logs  []Log   // by subscriber
	Nodes []Event // by time
}

func (h *History) sort() {
	slices.SortStableFunc(h.Logs, func(a, b Log) int { return a.Sub.compare(b.Sub) })
	slices.SortStableFunc(h.Nodes, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
}

// Merge joins the histories of several recorders, whose clocks must be the
// same. A subscriber that two of them know is ErrMalformed: process numbers
// were used again. The result shares the events with its sources.
func Merge(hs ...*History) (*History, error) {
	m := &History{}
	for _, h := range hs {
		m.Logs = append(m.Logs, h.Logs...)
		m.Nodes = append(m.Nodes, h.Nodes...)
	}
	m.sort()
	for i := 1; i < len(m.Logs); i++ {
		if m.Logs[i].Sub == m.Logs[i-1].Sub {
			return nil, fmt.Errorf("%w: two logs of subscriber %s", ErrMalformed, m.Logs[i].Sub)
		}
	}
	return m, nil
}

// structures lists the data structures of the history.
func (h *History) structures() []uint16 {
	var out []uint16
	for i := range h.Logs {
		if s := h.Logs[i].Sub.Structure; len(out) == 0 || out[len(out)-1] != s {
			out = append(out, s)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(out)))
}

func (h *History) origin() int64 {
	first := int64(0)
	see := func(e Event) {
		if first == 0 || e.At < first {
			first = e.At
		}
	}
	for i := range h.Logs {
		if len(h.Logs[i].Events) > 0 {
			see(h.Logs[i].Events[0])
		}
	}
	if len(h.Nodes) > 0 {
		see(h.Nodes[0])
	}
	return first
}

func (h *History) last(kind Kind) (int64, bool) {
	for i := len(h.Nodes) - 1; i >= 0; i-- {
		if h.Nodes[i].Kind == kind {
			return h.Nodes[i].At, true
		}
	}
	return 0, false
}

// survivors returns which logs belong to subscriptions that still live: not
// closed, and their process neither crashed nor followed by a later one.
func (h *History) survivors() map[Subscriber]bool {
	type process struct {
		node    uint16
		process uint32
	}
	gone, latest := make(map[process]bool), make(map[uint16]uint32)
	for _, e := range h.Nodes {
		switch e.Kind {
		case KindCrash, KindWipe:
			gone[process{e.Node, e.Process}] = true
		case KindStart:
			latest[e.Node] = max(latest[e.Node], e.Process)
		}
	}
	for i := range h.Logs {
		s := h.Logs[i].Sub
		latest[s.Node] = max(latest[s.Node], s.Process)
	}
	live := make(map[Subscriber]bool)
	for i := range h.Logs {
		l := &h.Logs[i]
		closed := slices.ContainsFunc(l.Events, func(e Event) bool { return e.Kind == KindClosed })
		live[l.Sub] = !closed && !gone[process{l.Sub.Node, l.Sub.Process}] && l.Sub.Process == latest[l.Sub.Node]
	}
	return live
}
