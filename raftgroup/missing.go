package raftgroup

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/placement"
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
	others := func(of []id.Replica) []id.Replica {
		return slices.DeleteFunc(slices.Clone(of), func(o id.Replica) bool { return o == r })
	}
	if want := wished(v.options); len(v.voters) > want && (len(others(v.good)) >= want || !v.replaceable()) {
		return "it is dropped, since fewer voters are wished" // see shrink
	}
	keep := v.nodesOf(others(v.voters))
	if _, ok := v.pick(keep); ok {
		if m.Lost {
			return "it is being replaced"
		}
		return ""
	}
	stay, there, _ := v.remaining()
	want := placement.VoterTarget(len(stay), wished(v.options))
	if len(stay) < len(v.voters) && want >= fewVoters && len(others(there)) >= want {
		return "it is dropped, since a node leaves too and no other can take its place" // see leave
	}
	if node, rests := v.resting(keep); rests {
		return fmt.Sprintf("node %s did not get a replica in its place, and is asked again", node)
	}
	return "no node can take its place" + v.confinement()
}

// noteMissing has the status show whom the leader misses.
func (c *care) noteMissing(g *Group, v *survey) {
	if now := c.missing(g, v); !maps.Equal(now, c.missed) {
		c.missed, g.statusDirty = now, true
	}
}
