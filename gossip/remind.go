package gossip

import (
	"time"

	"github.com/hashicorp/memberlist"
)

// A broadcast reaches everyone with a high probability, and not for sure: with
// 20 nodes, one change of a hundred or so misses a node. The next change of the
// same list would show it, but there may be none, and the next push/pull with
// that node may be half a minute away. So every node reminds a few others, every
// now and then, how far it has the lists that changed lately: who missed
// something asks for it. While nothing changes, nobody is reminded of anything.
const (
	remindPeers    = 3  // nodes that are reminded at a time
	remindVersions = 32 // versions in one reminder, the own one not counted: it fits a packet
)

// recent returns the versions of the lists that changed between until and after
// ago: of those that changed later, the news are still on their way. Of more
// than limit it picks some by chance. The own version stands in front, since who
// gets this takes it for all that this node has published.
func (d *directory) recent(now, after, until int64, limit int, random func(int) int) []version {
	var others []version
	own := false
	for _, h := range d.nodes {
		age := now - h.movedAt
		if h.movedAt == 0 || age < after || age > until || h.version().sequence == 0 {
			continue
		}
		if h == d.own {
			own = true
			continue
		}
		others = append(others, h.version())
	}
	if len(others) == 0 && !own {
		return nil
	}
	for i := range min(limit, len(others)) {
		j := i + random(len(others)-i)
		others[i], others[j] = others[j], others[i]
	}
	return append([]version{d.own.version()}, others[:min(limit, len(others))]...)
}

// remind sends a reminder to a few peers, if it is time and there is something.
func (g *Gossip) remind(now time.Time) {
	if now.Sub(g.reminded) < g.timing.remind-g.timing.tick/2 || g.cluster().IsZero() || g.hasLeft() {
		return
	}
	g.reminded = now
	g.mu.RLock()
	versions := g.directory.recent(g.elapsed(now), int64(g.timing.settle), int64(g.timing.remindFor), remindVersions, g.contacts.pick)
	var peers []*memberlist.Node
	if len(versions) > 0 && versions[0].sequence > 0 {
		for node, m := range g.members {
			if m.alive {
				peers = append(peers, m.target(node))
			}
		}
	}
	g.mu.RUnlock()
	if len(peers) == 0 {
		return
	}
	b, err := encodeHello(hello{sender{g.cluster(), g.config.Node}, g.config.Incarnation, versions})
	if err != nil {
		g.log.Error("encoding a reminder", "error", err)
		return
	}
	for i := range min(remindPeers, len(peers)) {
		j := i + g.contacts.pick(len(peers)-i)
		peers[i], peers[j] = peers[j], peers[i]
		if err := g.list.SendBestEffort(peers[i], b); err != nil {
			g.log.Debug("reminding a peer", "peer", peers[i].Name, "error", err)
		}
		g.counters.reminders.Add(1)
	}
}
