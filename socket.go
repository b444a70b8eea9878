package copycat

import (
	"context"
	"fmt"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/nodestatus"
)

// serveStatus answers the command copycat on a socket in the data directory. A
// node that cannot do so runs all the same.
func (n *node) serveStatus(self identity) {
	s, err := nodestatus.Serve(n.cfg.CopyCatDataDir, self.NodeID, n.log, nodestatus.Answers{
		Status:   func() nodestatus.Status { return publicStatus(n.Status()) },
		Holdings: n.holdings, Forget: n.forget,
	})
	if err != nil {
		n.log.Warn("copycat status will not reach this node", "error", err)
		return
	}
	n.socket = s
}

// askCatalog calls the catalog's service about a structure that is given as text.
func (n *node) askCatalog(ctx context.Context, structure string, ask func(context.Context, *catalog.Service, id.Structure) error) error {
	s, err := id.ParseStructure(structure)
	if err != nil {
		return err
	}
	svc := n.catalog.Load()
	if svc == nil {
		return fmt.Errorf("the node is starting: %w", ErrCatalogUnavailable)
	}
	ctx, cancel := n.within(ctx)
	defer cancel()
	return ask(ctx, svc, s)
}

func publicRecord(r catalog.Record) nodestatus.Record {
	return nodestatus.Record{Birth: r.Incarnation.Birth, Recovery: r.Incarnation.Recovery, Deleted: r.Deleted, Follows: r.Follows}
}

// holdings says what the nodes have of a structure, by their own word.
func (n *node) holdings(ctx context.Context, structure string) (out nodestatus.Holdings, err error) {
	err = n.askCatalog(ctx, structure, func(ctx context.Context, svc *catalog.Service, s id.Structure) error {
		r, held, err := svc.Holdings(ctx, s)
		out.Record = publicRecord(r)
		for _, h := range held {
			one := nodestatus.Holding{NodeID: h.Node.String(), Error: text(h.Err)}
			if h.Life.Birth != 0 {
				one.Life = h.Life.String()
			}
			out.Nodes = append(out.Nodes, one)
		}
		return err
	})
	return out, err
}

// forget gives up a structure of which nothing is left.
func (n *node) forget(ctx context.Context, structure string, birth uint64) error {
	return n.askCatalog(ctx, structure, func(ctx context.Context, svc *catalog.Service, s id.Structure) error {
		return svc.GiveUpLost(ctx, s, birth)
	})
}

// publicStatus is a Status as the command gets it.
func publicStatus(s Status) nodestatus.Status {
	out := nodestatus.Status{
		Version: nodestatus.Version, NodeID: s.NodeID, ClusterID: s.ClusterID, Incarnation: s.Incarnation,
		Address: s.CopyCatAddress, Gossip: s.GossipAddress, DataDir: s.DataDir, DataCenter: s.DataCenter, Rack: s.Rack,
		Storage: text(s.Storage), Leaving: s.Leaving, LeaveWaits: s.LeaveWaits, Nodes: []nodestatus.Node{}, Structures: []nodestatus.Structure{},
	}
	for _, o := range s.Nodes {
		out.Nodes = append(out.Nodes, nodestatus.Node{
			NodeID: o.NodeID, Address: o.CopyCatAddress, Gossip: o.GossipAddress,
			DataCenter: o.DataCenter, Rack: o.Rack, Alive: o.Alive, Leaving: o.Leaving, Since: o.Since,
		})
	}
	for _, g := range s.Structures {
		one := nodestatus.Structure{
			ID: g.ID.String(), Incarnation: g.Incarnation.String(), Catalog: g.Catalog, Replica: g.ReplicaID, Role: g.Role,
			Interactive: g.Interactive, Leader: g.Leader, LeaderDataCenter: g.LeaderDataCenter, Term: g.Term,
			Commit: g.Commit, Applied: g.Applied, Lag: g.Lag, Commits: g.Commits, Snapshot: g.Snapshot, Sessions: g.Sessions,
			QuorumLost: g.QuorumLost, Deleted: g.Deleted, LastError: text(g.LastError),
			Quiet: g.Quiet, Wished: g.Options.Voters, Waits: g.Waits, Members: []nodestatus.Member{},
		}
		for _, m := range g.Members {
			member := nodestatus.Member{
				Replica: m.ReplicaID, NodeID: m.NodeID, DataCenter: m.DataCenter, Voter: m.Voter, Leader: m.Leader, Alive: m.Alive,
				Missing: m.Missing.Seconds(), ReplacedIn: m.ReplacedIn.Seconds(), Lost: m.Lost, Fate: m.Fate,
			}
			if m.Known {
				lag := m.Lag
				member.Lag = &lag
			}
			one.Members = append(one.Members, member)
		}
		out.Structures = append(out.Structures, one)
	}
	for _, a := range s.SetAside {
		kept := nodestatus.Kept{Replica: a.ReplicaID, Why: fmt.Sprintf("%s (%s at %d)", a.Why, a.File, a.Offset)}
		if !a.ID.IsZero() {
			kept.ID = a.ID.String()
		}
		out.SetAside = append(out.SetAside, kept)
	}
	for _, o := range s.Superseded {
		out.Superseded = append(out.Superseded, nodestatus.Kept{ID: o.ID.String(), Incarnation: o.Incarnation.String()})
	}
	return out
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
