package history

import "slices"

// settle finds the total order of a structure. Every state that a subscriber
// was ever in should be a prefix of it, so in a correct history it is simply
// the longest of them. Where subscribers disagree about a place, the ID that
// most of them have there wins (then the one that more survivors have, then
// the smaller one): so one wrong subscriber is found wrong, and not all others.
func (c *checker) settle() {
	disputed := make(map[int]bool)
	loaded := make(map[*Fold]bool)
	take := func(at int, id ID, p place) {
		if at == len(c.order) {
			c.order = append(c.order, id)
			c.witness = append(c.witness, p)
		} else if c.order[at] != id {
			disputed[at] = true
		}
	}
	for i := range c.logs {
		c.replay(i, loaded, take)
	}
	if len(disputed) > 0 {
		c.vote(disputed)
	}
	c.index = make(map[ID]int, len(c.order))
	for at, id := range c.order {
		if _, known := c.index[id]; !known {
			c.index[id] = at
		}
	}
	for c.base < len(c.order) && c.order[c.base].IsBase() {
		c.base++
	}
}

// replay goes through one log and says which ID it has at which place. Folds
// that are in done are left out; nil leaves none out.
func (c *checker) replay(log int, done map[*Fold]bool, take func(at int, id ID, p place)) {
	l := c.logs[log]
	at := 0
	var base *Fold // held, but not known to be the group's: a load may replace it
	hold := func(f *Fold, p place) {
		at = len(f.IDs)
		if done[f] {
			return
		}
		for i, id := range f.IDs {
			take(i, id, p)
		}
		if done != nil {
			done[f] = true
		}
	}
	for k := range l.Events {
		e, p := &l.Events[k], place{int32(log), int32(k)}
		switch e.Kind {
		case KindBased:
			base = e.fold()
		case KindDelivered:
			if base != nil {
				hold(base, p)
				base = nil
			}
			take(at, e.ID, p)
			at++
		case KindLoaded:
			if f := e.fold(); f != nil {
				hold(f, p)
				base = nil
			}
		}
	}
	if base != nil && c.ended && c.live[l.Sub] {
		hold(base, place{int32(log), int32(len(l.Events) - 1)})
	}
}

type tally struct {
	voters, survivors int
	last              int // the last log that voted, from 1
	first             place
}

// vote decides the disputed places. What a subscriber says after it got
// something twice does not count until its next load: it is shifted.
func (c *checker) vote(disputed map[int]bool) {
	votes := make(map[int]map[ID]*tally, len(disputed))
	reach := 0
	for i, l := range c.logs {
		seen, shifted := make(map[ID]bool), false
		c.replay(i, nil, func(at int, id ID, p place) {
			if at == 0 {
				clear(seen)
				shifted = false
			}
			if shifted = shifted || (seen[id] && !id.IsZero()); shifted {
				return
			}
			seen[id] = true
			reach = max(reach, at+1)
			if !disputed[at] {
				return
			}
			if votes[at] == nil {
				votes[at] = make(map[ID]*tally)
			}
			t := votes[at][id]
			if t == nil {
				t = &tally{first: p}
				votes[at][id] = t
			}
			if t.last != i+1 {
				t.last = i + 1
				t.voters++
				if c.live[l.Sub] {
					t.survivors++
				}
			}
		})
	}
	// A dispute among shifted subscribers alone has no votes: the first one's word stays.
	for at, ids := range votes {
		var best ID
		var won *tally
		for id, t := range ids {
			if won == nil || t.voters > won.voters ||
				(t.voters == won.voters && (t.survivors > won.survivors ||
					(t.survivors == won.survivors && id.compare(best) < 0))) {
				best, won = id, t
			}
		}
		c.order[at], c.witness[at] = best, won.first
	}
	c.order, c.witness = slices.Clip(c.order[:reach]), c.witness[:reach]
}
