package raftgroup

import (
	"time"

	"github.com/copycat-replication/copycat/id"
)

const (
	// electionRoundTrips is how many round trips to the farthest voter the
	// shortest election time-out must last. A vote takes two (the first asks
	// whether it may succeed); a heartbeat in a packet that is lost, and lost
	// again when it is repeated, takes four. With fewer, replicas elect for
	// nothing. With the defaults nothing changes up to 200 ms.
	electionRoundTrips = 5
	// maxStretch bounds how much longer election time-outs become: round trips
	// that grow since a link is full must not keep a dead leader for minutes.
	maxStretch = 5
	// paceInterval is how often a replica looks at its round trips.
	paceInterval = 2 * time.Second
)

// pace slows the ticks that raft gets down where round trips are long. Raft's
// time-outs are counted in ticks, and cannot be changed while it runs; its
// heartbeats become rarer with them, and stay a tenth of the time-out.
// Replicas need not agree on it: a slow clock is nothing new to raft.
type pace struct {
	stretch int // clock ticks to one of raft's; 0 is 1
	over    int // clock ticks that raft has not had
	looked  time.Time
	worst   time.Duration // round trip to another voter, as of then
}

// stretchFor says how much longer than usual election time-outs have to be.
func stretchFor(roundTrip, election time.Duration) int {
	if election <= 0 {
		return 1
	}
	need := electionRoundTrips * roundTrip
	return int(min(max((need+election-1)/election, 1), maxStretch))
}

// ticks turns ticks of the clock into raft's.
func (p *pace) ticks(n int) int {
	stretch := max(p.stretch, 1)
	p.over += n
	n = p.over / stretch
	p.over %= stretch
	return n
}

// tick looks at the round trips to the other voters, now and then.
func (p *pace) tick(g *Group) {
	cfg := &g.host.cfg
	if cfg.RTT == nil || !p.looked.IsZero() && g.now.Sub(p.looked) < paceInterval {
		return
	}
	p.looked, p.worst = g.now, 0
	for _, v := range g.state.conf.GetVoters() {
		node := g.state.members[id.Replica(v)]
		if node == cfg.Node {
			continue
		}
		if rtt, ok := cfg.RTT(node); ok {
			p.worst = max(p.worst, rtt)
		}
	}
	stretch := stretchFor(p.worst, g.baseElection())
	if stretch != max(p.stretch, 1) {
		g.log.Debug("election time-outs follow the round trip", "rtt", p.worst, "stretch", stretch)
	}
	p.stretch = stretch
}

// baseElection is the shortest election time-out where round trips are short.
func (g *Group) baseElection() time.Duration {
	return time.Duration(g.host.cfg.ElectionTicks) * g.host.cfg.TickInterval
}

// election is the shortest election time-out here and now.
func (g *Group) election() time.Duration {
	return g.baseElection() * time.Duration(max(g.pace.stretch, 1))
}
