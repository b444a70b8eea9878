package copycat

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/gossip"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/placement"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/transport"
	"github.com/copycat-replication/copycat/wal"
)

// The layers do not know one another: each declares what it needs, and the
// types here give it that.

// environment is what a node takes of the machine that it runs on. Tests hand
// in another one: disks that fail, time-outs that are short.
type environment struct {
	fs             vfs.FS
	cold           wal.ColdStore // nil: Badger, on the operating system's file system
	sessionTimeout time.Duration // 0: the engine's default
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

// outbound is the transport as the engine and the catalog see it.
type outbound struct{ t *transport.Transport }

func (o outbound) Send(to id.Node, m raftgroup.Message) error {
	return o.t.Queue(to, transport.Message(m))
}

func (o outbound) Flush() { o.t.Flush() }

func (o outbound) Call(ctx context.Context, to id.Node, method uint16, request []byte) ([]byte, error) {
	return o.t.Call(ctx, to, method, request)
}

func (o outbound) Fetch(ctx context.Context, to id.Node, request []byte) (io.ReadCloser, error) {
	return o.t.Fetch(ctx, to, request)
}

// inbound is the node as the transport sees it. Nothing comes in before the
// engine stands: until then the node has no cluster to be in.
type inbound struct{ n *node }

func (i inbound) HandleMessages(from id.Node, batch []transport.Message) {
	if h := i.n.host.Load(); h != nil {
		for _, m := range batch {
			h.HandleMessage(from, raftgroup.Message(m))
		}
	}
}

func (i inbound) HandleCall(ctx context.Context, from id.Node, method uint16, request []byte) ([]byte, error) {
	h, c := i.n.host.Load(), i.n.catalog.Load()
	switch {
	case h == nil || c == nil:
		return nil, ErrClosed
	case method <= raftgroup.MaxMethod:
		return h.HandleCall(ctx, from, method, request)
	}
	return c.HandleCall(ctx, from, method, request)
}

func (i inbound) HandleStream(ctx context.Context, from id.Node, request []byte, w io.Writer) error {
	h := i.n.host.Load()
	if h == nil {
		return ErrClosed
	}
	return h.HandleStream(ctx, from, request, w)
}

func (i inbound) PeerUp(node id.Node, incarnation uint64) {
	if h := i.n.host.Load(); h != nil {
		h.PeerUp(node, incarnation)
	}
}

func (i inbound) PeerDown(node id.Node, err error) {
	if h := i.n.host.Load(); h != nil {
		h.PeerDown(node)
		if errors.Is(err, transport.ErrRefused) {
			h.PeerRefused(node)
		}
	}
}

// directory is gossip as the engine and the catalog see it.
type directory struct{ g *gossip.Gossip }

func (d directory) Nodes() []raftgroup.Node {
	nodes := d.g.Nodes()
	out := make([]raftgroup.Node, 0, len(nodes))
	for _, n := range nodes {
		if n.Alive {
			out = append(out, raftgroup.Node{ID: n.ID, Incarnation: n.Incarnation, DataCenter: n.DataCenter, Rack: n.Rack, Capacity: n.Capacity, Leaving: n.Left})
		}
	}
	return out
}

func (d directory) Holders(s id.Structure) []id.Node {
	var out []id.Node
	for _, h := range d.g.Holders(s) {
		if n, ok := d.g.Node(h.Node); ok && n.Alive && !slices.Contains(out, h.Node) {
			out = append(out, h.Node)
		}
	}
	return out
}

// Incarnations says which life of a structure each holder says that it has.
func (d directory) Incarnations(s id.Structure) map[id.Node]id.Incarnation {
	out := make(map[id.Node]id.Incarnation)
	for _, h := range d.g.Holders(s) {
		if life := h.Group.Incarnation; out[h.Node].Less(life) {
			out[h.Node] = life
		}
	}
	return out
}

// Rebuilt lists the structures of which a holder says that it was rebuilt.
func (d directory) Rebuilt() []id.Structure { return d.g.Rebuilt() }

// The roles that travel in the directory.
const (
	roleLearner uint8 = iota
	roleVoter
	roleLeader
)

func (d directory) Publish(replicas []raftgroup.Hosted) {
	out := make([]gossip.Replica, 0, len(replicas))
	for _, r := range replicas {
		role := roleLearner
		switch {
		case r.Leader:
			role = roleLeader
		case r.Voter:
			role = roleVoter
		}
		out = append(out, gossip.Replica{Group: r.Group, ID: r.Replica, Role: role})
	}
	d.g.Publish(out)
}

// place picks the first voters of a new structure.
func (n *node) place(s id.Structure, opt raftgroup.Options) []id.Node {
	nodes := directory{n.gossip.Load()}.Nodes()
	candidates := make([]placement.Node, 0, len(nodes))
	for _, o := range nodes {
		if o.Leaving {
			continue
		}
		candidates = append(candidates, placement.Node{ID: o.ID, DataCenter: o.DataCenter, Rack: o.Rack, Capacity: o.Capacity})
	}
	return placement.Choose(s, candidates, opt.Placement()).Voters
}

func nodeNames(members map[id.Replica]id.Node) []string {
	names := make([]string, 0, len(members))
	for _, r := range slices.Sorted(maps.Keys(members)) {
		names = append(names, members[r].String())
	}
	return names
}

var (
	_ transport.Handler   = inbound{}
	_ raftgroup.Network   = outbound{}
	_ raftgroup.Directory = directory{}
	_ catalog.Network     = outbound{}
)
