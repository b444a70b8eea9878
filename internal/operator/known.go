package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/nodestatus"
	"github.com/copycat-replication/copycat/raftgroup"
)

// Fact is what the catalog says of a structure, by one account of it: that of a
// replica of the catalog in a directory, as old as its log, or of a node that runs.
type Fact struct {
	Source string
	Record catalog.Record // its zero: the catalog knows of no birth
	Now    bool           // it is the catalog's own answer, and not what a directory remembers
	Uses   []Use          // by which nodes' own answers there are replicas now
}

// Use is a node's own word that it has a replica. It may have stopped there, and run
// again when the node is started anew: its log is not lost.
type Use struct {
	NodeID string
	Life   id.Incarnation
}

// known gathers what the directories themselves say of a structure.
func known(reports []Report, s id.Structure) (out []Fact) {
	for _, r := range reports {
		for _, m := range r.catalogs {
			rec, _ := m.Record(s)
			out = append(out, Fact{Source: "the catalog in " + r.Dir, Record: rec})
		}
	}
	return out
}

// Learn adds what somebody else says of the structure of a case.
func (c *Case) Learn(f Fact) {
	c.facts = append(c.facts, f)
	c.judge()
}

// LearnLife adds that the group is known to have had a life with this incarnation.
func (c *Case) LearnLife(life id.Incarnation) {
	if life.Birth == c.Survivors[0].Group.key.Incarnation.Birth {
		c.beyond = max(c.beyond, life.Recovery)
	}
}

// judge draws from the facts whether the structure was deleted, and whether it
// has a later life.
func (c *Case) judge() {
	first := c.Survivors[0].Group.key
	c.Ended, c.Later, c.Running = "", "", nil
	for _, f := range c.facts {
		c.judgeUses(f.Uses)
		rec := f.Record
		switch {
		case rec.Incarnation.Birth == 0:
		case rec.Ends(first.Incarnation.Birth) && rec.Incarnation.Birth > first.Incarnation.Birth:
			c.Ended = fmt.Sprintf("%s says that it was deleted, and the ID created anew at %d", f.Source, rec.Incarnation.Birth)
		case rec.Ends(first.Incarnation.Birth):
			c.Ended = f.Source + " says that it was deleted"
		case rec.Incarnation.Birth > first.Incarnation.Birth:
			c.Ended = fmt.Sprintf("%s has another life of it, born at %d, and was rebuilt in between: it may have been deleted", f.Source, rec.Incarnation.Birth)
		case rec.Incarnation.Birth == first.Incarnation.Birth:
			c.beyond = max(c.beyond, rec.Incarnation.Recovery)
			if first.Incarnation.Less(rec.Incarnation) {
				c.Later = fmt.Sprintf("%s has a later life of it, %s", f.Source, rec.Incarnation)
			}
		}
	}
}

// judgeUses draws from what nodes that run have of the structure whether the group
// lives without the first survivor.
func (c *Case) judgeUses(uses []Use) {
	first := c.Survivors[0].Group.key.Incarnation
	for _, u := range uses {
		switch {
		case u.Life.Birth != first.Birth: // the catalog tells which of the two counts
		case first.Less(u.Life):
			c.beyond = max(c.beyond, u.Life.Recovery)
			c.Later = fmt.Sprintf("node %s has a later life of it, %s", u.NodeID, u.Life)
		case u.Life == first && !slices.Contains(c.Running, u.NodeID):
			c.Running = append(c.Running, u.NodeID)
		}
	}
}

// Moved is a node that has a replica of which the first survivor knows nothing:
// the group has got it since that directory was written. Empty: there is none.
func (c *Case) Moved() string {
	for _, node := range c.Running {
		if !slices.ContainsFunc(c.Survivors[0].Group.Members, func(m Member) bool { return m.NodeID == node }) {
			return node
		}
	}
	return ""
}

// IsKnown reports whether the catalog itself was asked about the structure.
func (c *Case) IsKnown() bool {
	return slices.ContainsFunc(c.facts, func(f Fact) bool { return f.Now })
}

// LastWritten is the time of the newest entry in the first survivor's log, by its
// leader's clock.
func (c *Case) LastWritten() time.Time { return c.Survivors[0].Group.view.Clock }

// KeepsSuperseded reports whether a directory has a replica of a structure, named
// by its ID or "catalog", that was superseded.
func KeepsSuperseded(r Report, which string) bool {
	return slices.ContainsFunc(r.Groups, func(g Group) bool {
		return g.Phase == raftgroup.PhaseSuperseded && (g.Structure == which || (g.Catalog && which == "catalog"))
	})
}

// LearnCatalog finds out whether the catalog, which is the case, has its quorum: it
// asks the node that runs on a data directory for something that takes a commit of
// it. No answer says nothing. nodestatus.ErrNotRunning says that there is no node.
func (c *Case) LearnCatalog(ctx context.Context, dir string) error {
	_, err := nodestatus.AskHoldings(ctx, dir, id.Structure{15: 1}.String()) // any but its own: it is the answer that counts
	if errors.Is(err, nodestatus.ErrNotRunning) {
		return err
	}
	c.Answers = err == nil
	return nil
}

// Ask asks the node that runs on a data directory what the catalog says of a
// structure, by a commit, and which nodes have replicas of it.
// nodestatus.ErrNotRunning says that there is none.
func Ask(ctx context.Context, dir, structure string) (Fact, error) {
	h, err := nodestatus.AskHoldings(ctx, dir, structure)
	if err != nil {
		return Fact{}, err
	}
	s, err := id.ParseStructure(structure)
	if err != nil {
		return Fact{}, err
	}
	r := h.Record
	f := Fact{Source: "the catalog", Now: true, Record: catalog.Record{
		Structure: s, Incarnation: id.Incarnation{Birth: r.Birth, Recovery: r.Recovery}, Deleted: r.Deleted, Follows: r.Follows,
	}}
	for _, n := range h.Nodes {
		if n.Life == "" {
			continue // it has none, or did not answer
		}
		life, err := id.ParseIncarnation(n.Life)
		if err != nil {
			return Fact{}, fmt.Errorf("node %s: %w", n.NodeID, err)
		}
		f.Uses = append(f.Uses, Use{NodeID: n.NodeID, Life: life})
	}
	return f, nil
}

// findLives finds the lives of the group that the directories know of.
func (c *Case) findLives(reports []Report) {
	first := c.Survivors[0].Group.key
	for _, r := range reports {
		for i := range r.Groups {
			g := &r.Groups[i]
			if g.key.Structure != first.Structure {
				continue
			}
			c.LearnLife(g.key.Incarnation)
			for _, b := range g.view.Rebuilt {
				c.LearnLife(id.Incarnation{Birth: g.key.Incarnation.Birth, Recovery: b.To.Recovery})
			}
		}
	}
}
