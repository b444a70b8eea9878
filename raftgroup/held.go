package raftgroup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/copycat-replication/copycat/id"
)

// maxHeldText bounds what is kept of the errors of nodes that did not answer.
const maxHeldText = 400

// explainer says of the replicas on a node why their groups are not as they
// should be, where no leader does: because there is none, or it has not said
// anything yet to a node that leaves.
type explainer struct {
	leaving bool
	nodes   func() []Node
	seen    map[id.Node]bool // by gossip; nil: not asked yet
}

func (h *Host) explainer() explainer {
	return explainer{leaving: h.leaving.Load(), nodes: h.liveNodes}
}

// waits is what a replica's status says, or what is to be said for it.
func (e *explainer) waits(st *GroupStatus) string {
	runs := st.Role == "follower" || st.Role == "candidate" || st.Role == "learner"
	switch {
	case runs && st.Leader == 0 && !st.Deleted && len(st.Voters) > 0:
		return e.leaderless(st)
	case st.Waits != "" || !e.leaving:
		return st.Waits
	case st.Deleted:
		return "the structure was deleted: this replica is about to go"
	case st.Role == "prepared":
		return "its birth is not decided: the catalog is asked"
	case st.IsLeader:
		return "this replica leads, and has not found yet what is to become of it"
	case runs:
		return fmt.Sprintf("the leader, on node %s, has not said yet what it waits for", st.LeaderNode)
	}
	return "no leader has said yet whether this replica is still wanted"
}

// leaderless says who is missing for a leader, as far as gossip tells.
func (e *explainer) leaderless(st *GroupStatus) string {
	if e.seen == nil {
		e.seen = make(map[id.Node]bool)
		for _, n := range e.nodes() {
			e.seen[n.ID] = true
		}
	}
	var missing []string
	for _, node := range st.Voters {
		if !e.seen[node] {
			missing = append(missing, node.String())
		}
	}
	slices.Sort(missing)
	voters := len(st.Voters)
	there, who := voters-len(missing), ""
	if len(missing) > 0 {
		who = " (not seen: " + strings.Join(missing, ", ") + ")"
	}
	if st.Joint {
		who += "; amid a change of the membership, which needs a majority of the voters before it too"
	}
	if need := voters/2 + 1; there < need {
		return fmt.Sprintf("no leader: %d of %d voters on nodes that are seen, and %d needed%s", there, voters, need, who)
	}
	if e.leaving && st.Waits != "" {
		who += "; " + st.Waits // who was asked, and what came of it
	}
	return fmt.Sprintf("no leader, although %d of %d voters are on nodes that are seen: it is being elected, replicas there have stopped, or these nodes do not reach each other%s", there, voters, who)
}

// hold notes why this replica is still on a node that leaves.
func (g *Group) hold(why string) {
	g.statusDirty, g.heldBy = g.statusDirty || g.heldBy != why, why
}

// noAnswer says that nobody could tell a replica what becomes of it.
func noAnswer(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if len(text) > maxHeldText {
		text = strings.ToValidUTF8(text[:maxHeldText], "") + "…"
	}
	return "no leader of its group answers this node: " + text
}

// Unsettled says, for people, what a node that leaves waits for beside the
// replicas that Groups lists; "" is nothing.
func (h *Host) Unsettled() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	say := func(n int, one, many string) {
		switch {
		case n == 1:
			out = append(out, "1 "+one)
		case n > 1:
			out = append(out, fmt.Sprintf("%d %s", n, many))
		}
	}
	removed, again := 0, 0
	for _, l := range h.between {
		if l == lotGoes {
			removed++
		} else {
			again++
		}
	}
	say(removed, "replica is still being removed from the disk", "replicas are still being removed from the disk")
	say(again, "replica is about to start again", "replicas are about to start again")
	say(len(h.preparing), "replica is being prepared for a birth", "replicas are being prepared for births")
	return strings.Join(out, "; ")
}
