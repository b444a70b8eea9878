package raftgroup

import (
	"maps"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// Missing says what a leader knows of a member that it does not hear of.
type Missing struct {
	// Since is when the leader began to miss it, by the host's clock. A new leader
	// begins anew.
	Since time.Time
	// GiveUp is when the member is given up if nobody hears of it until then: a
	// voter is replaced, a learner removed. Zero: it is given up already (Lost), or
	// will not be, since its node lives.
	GiveUp time.Time
	Lost   bool
	// Fate says, for people, what comes of it where the time alone does not:
	// "no node can take its place".
	Fate string
}

// missing lists the members that this leader misses. It looks at what watch and
// decide have found out: v has begun.
func (c *care) missing(g *Group, v *survey) map[id.Replica]Missing {
	var out map[id.Replica]Missing
	for r, since := range c.silent {
		gone, counts := c.gone[r]
		if v.active[r] || !counts && !v.away[r] && !v.lost[r] {
			continue // not for long enough to say anything of it
		}
		m := Missing{Since: since, Lost: v.lost[r]}
		if counts && !m.Lost {
			m.GiveUp = gone.Add(g.host.cfg.ReplaceAfter)
		}
		m.Fate = v.fate(r, m)
		if out == nil {
			out = make(map[id.Replica]Missing)
		}
		out[r] = m
	}
	return out
}

// fate says what comes of a member that is missing.
func (v *survey) fate(r id.Replica, m Missing) string {
	switch {
	case !m.Lost && m.GiveUp.IsZero():
		return "its node lives, so it is not given up"
	case !slices.Contains(v.voters, r):
		if m.Lost {
			return "it is being removed"
		}
		return ""
	}
	var keep []id.Node
	for _, o := range v.voters {
		if o != r {
			keep = append(keep, v.members[o])
		}
	}
	if _, ok := v.pick(keep); !ok {
		return "no node can take its place" + v.confinement()
	}
	if m.Lost {
		return "it is being replaced"
	}
	return ""
}

// noteMissing has the status show whom the leader misses.
func (c *care) noteMissing(g *Group, v *survey) {
	if now := c.missing(g, v); !maps.Equal(now, c.missed) {
		c.missed, g.statusDirty = now, true
	}
}
