package history

import (
	"fmt"
	"slices"
)

// walk is one subscriber's way along the order.
type walk struct {
	c    *checker
	log  int
	sub  Subscriber
	at   int        // its state is the first at items of the order
	base *Fold      // held, but nobody said yet whose base counts
	off  bool       // it left the order: its state is list
	list []ID       // if off
	have map[ID]int // if off: how often

	own   map[ID]int64 // when it was delivered what it had proposed
	loads []load
}

type load struct {
	items int
	at    int64
}

// walk holds each event of a log against the order.
func (c *checker) walk(log int) *walk {
	l := c.logs[log]
	w := &walk{c: c, log: log, sub: l.Sub, own: make(map[ID]int64)}
	for k := range l.Events {
		e, p := &l.Events[k], place{int32(log), int32(k)}
		switch e.Kind {
		case KindBased:
			w.base = e.fold()
		case KindDelivered:
			w.takeBase(p)
			w.deliver(e, p)
		case KindLoaded:
			w.load(e, p)
		case KindMade:
			w.made(e, p)
		}
	}
	if c.ended && c.live[l.Sub] {
		w.takeBase(place{int32(log), int32(len(l.Events) - 1)})
	}
	return w
}

// takeBase: what the subscriber brought along has become its state.
func (w *walk) takeBase(p place) {
	if w.base == nil {
		return
	}
	f := w.base
	w.base = nil
	if w.follow(f.IDs) {
		return
	}
	w.c.at(p, Violation{Rule: RuleLoad, Place: 1, What: fmt.Sprintf("%s goes on from %d items of its own, which are not the order's beginning, and was given no load", w.sub, len(f.IDs))})
}

// follow makes the state a list, and reports whether the order begins with it.
func (w *walk) follow(ids []ID) bool {
	w.off, w.list, w.have = false, nil, nil
	if len(ids) <= len(w.c.order) && slices.Equal(ids, w.c.order[:len(ids)]) {
		w.at = len(ids)
		return true
	}
	w.leave(ids)
	return false
}

// leave: the state is a list that the order does not begin with.
func (w *walk) leave(ids []ID) {
	w.off, w.list, w.have = true, slices.Clone(ids), make(map[ID]int, len(ids))
	for _, id := range ids {
		w.have[id]++
	}
}

func (w *walk) deliver(e *Event, p place) {
	c := w.c
	if _, known := w.own[e.ID]; !known && e.ID.Writer == w.sub.Writer() {
		w.own[e.ID] = e.At
	}
	stands := w.len() + 1
	if e.N != 0 && !w.off && int(e.N) != stands-c.base {
		c.at(p, Violation{Rule: RuleOrder, ID: e.ID, Place: stands, What: fmt.Sprintf("%s was delivered %s as number %d, but it is its number %d", w.sub, e.ID, e.N, stands-c.base)})
	}
	switch {
	case !w.off && w.at < len(c.order) && c.order[w.at] == e.ID:
		w.at++
		return
	case w.off:
		if w.have[e.ID]++; w.have[e.ID] > 1 && !e.ID.IsZero() {
			w.twice(e.ID, p)
		}
	default:
		first, known := c.index[e.ID]
		if known && first < w.at && !e.ID.IsZero() {
			w.twice(e.ID, p)
		} else {
			c.at(p, Violation{Rule: RuleOrder, ID: e.ID, Place: stands, What: fmt.Sprintf("%s was delivered %s at place %d%s", w.sub, e.ID, stands, c.instead(w.at, first, known))})
		}
		w.leave(c.order[:w.at])
		w.have[e.ID]++
	}
	w.list = append(w.list, e.ID)
	c.stray(e.ID, p)
}

func (w *walk) twice(id ID, p place) {
	stands := w.len() + 1
	w.c.at(p, Violation{Rule: RuleTwice, ID: id, Place: stands, What: fmt.Sprintf("%s was delivered %s at place %d, and holds it already", w.sub, id, stands)})
}

// instead says what the order has at a place, and where the ID is that came.
func (c *checker) instead(at, first int, known bool) string {
	if at >= len(c.order) {
		return ", where the order has nothing"
	}
	text := ", where the order has " + c.order[at].String()
	if known {
		return fmt.Sprintf("%s; its own place is %d", text, first+1)
	}
	return text + "; it is not in the order"
}

func (w *walk) load(e *Event, p place) {
	f := e.fold()
	if f == nil {
		w.c.at(p, Violation{Rule: RuleSnapshot, What: fmt.Sprintf("%s was given a snapshot that is none: %s", w.sub, e.text())})
		return
	}
	w.base = nil
	if w.follow(f.IDs) {
		w.loads = append(w.loads, load{len(f.IDs), e.At})
		return
	}
	w.badFold(f, p, RuleLoad, "loaded")
	for _, id := range f.IDs {
		w.c.stray(id, p)
	}
}

// badFold reports a fold that is not one of a prefix of the order.
func (w *walk) badFold(f *Fold, p place, rule Rule, did string) {
	c := w.c
	seen := make(map[ID]bool, len(f.IDs))
	for i, id := range f.IDs {
		if seen[id] && !id.IsZero() {
			c.at(p, Violation{Rule: RuleTwice, ID: id, Place: i + 1, What: fmt.Sprintf("%s %s a snapshot that holds %s twice, at place %d again", w.sub, did, id, i+1)})
			break
		}
		seen[id] = true
	}
	at := 0
	for at < len(f.IDs) && at < len(c.order) && f.IDs[at] == c.order[at] {
		at++
	}
	if at == len(f.IDs) {
		return
	}
	first, known := c.index[f.IDs[at]]
	c.at(p, Violation{Rule: rule, ID: f.IDs[at], Place: at + 1, What: fmt.Sprintf("%s %s a snapshot of %d items that has %s at place %d%s",
		w.sub, did, len(f.IDs), f.IDs[at], at+1, c.instead(at, first, known))})
}

// made: a provider's snapshot is the state of the subscriber, just then.
func (w *walk) made(e *Event, p place) {
	f := e.fold()
	if f == nil {
		w.c.at(p, Violation{Rule: RuleRecording, What: fmt.Sprintf("%s made a snapshot of which nothing is known", w.sub)})
		return
	}
	if held := w.state(); !slices.Equal(f.IDs, held) {
		w.c.at(p, Violation{Rule: RuleSnapshot, Place: len(f.IDs), What: fmt.Sprintf("%s made a snapshot of %d items, digest %016x, but by its own events it held %d, digest %016x",
			w.sub, len(f.IDs), f.Digest, len(held), NewFold(held).Digest)})
	}
	if e.N != 0 && w.base == nil && int(e.N) != len(f.IDs)-w.c.base {
		w.c.at(p, Violation{Rule: RuleSnapshot, Place: len(f.IDs), What: fmt.Sprintf("%s made snapshot %d, which holds %d commits", w.sub, e.N, len(f.IDs)-w.c.base)})
	}
}

// state returns what the subscriber holds; it must not be changed.
func (w *walk) state() []ID {
	switch {
	case w.base != nil:
		return w.base.IDs
	case w.off:
		return w.list
	}
	return w.c.order[:w.at]
}

func (w *walk) len() int { return len(w.state()) }

// since returns when the subscriber first had a proposal of its own in its state.
func (w *walk) since(id ID) (int64, bool) {
	if at, ok := w.own[id]; ok {
		return at, true
	}
	place, known := w.c.index[id]
	if !known {
		return 0, false
	}
	for _, l := range w.loads {
		if place < l.items {
			return l.at, true
		}
	}
	return 0, false
}

// stray remembers an ID that somebody saw and that is not in the order.
func (c *checker) stray(id ID, p place) {
	if _, known := c.index[id]; !known {
		c.strays = append(c.strays, stray{id, p})
	}
}
