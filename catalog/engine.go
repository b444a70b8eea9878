package catalog

import (
	"context"
	"iter"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// Engine is what the catalog needs of the node's host. *raftgroup.Host has the
// contracts; ForHost makes one an Engine.
type Engine interface {
	Subscribe(raftgroup.SubscriptionConfig) (Subscription, error)
	// Holds reports whether this node has a replica of a structure that is a
	// member of its group, as far as it knows, and works.
	Holds(id.Structure) bool
	Found(context.Context, raftgroup.Genesis) error
	Prepare(context.Context, raftgroup.Genesis) error
	StartPrepared(context.Context, raftgroup.Token, id.Incarnation) error
	DiscardPrepared(context.Context, raftgroup.Token) error
	Prepared() []raftgroup.PreparedReplica
	// Statuses yields the status of every replica on this node. They are shared,
	// and never changed: a replica with news has another one.
	Statuses() iter.Seq[*raftgroup.GroupStatus]
	// News counts how often Statuses has begun to yield something else, after it has.
	News() uint64
	// Waiting lists structures of which this node is to get a replica.
	Waiting() []id.Structure
	// SetAside lists groups whose replica here is kept, and not used any more.
	SetAside() []id.Group
	// EndGroup commits the end of an incarnation in its own log.
	EndGroup(ctx context.Context, s id.Structure, birth uint64, hints ...id.Node) error
	RemoveEnded(context.Context, id.Group) error
	GiveUp(id.Structure)
	// Warn reports an error to the subscriptions on the replica here.
	Warn(id.Group, error)
	// Lives asks a node which incarnation of a structure it runs.
	Lives(ctx context.Context, node id.Node, s id.Structure) (id.Incarnation, error)
	// Keeps asks a node which incarnation of a structure it has, running or not.
	Keeps(ctx context.Context, node id.Node, s id.Structure) (id.Incarnation, error)
	// Supersede sets the replica here aside, since the group was rebuilt elsewhere.
	Supersede(ctx context.Context, g id.Group, by id.Incarnation) error
}

// Subscription is what the catalog needs of its subscription to its own log;
// see raftgroup.Subscription.
type Subscription interface {
	Propose() chan<- []byte
	Commits() <-chan []byte
	Errors() <-chan error
	Consume() ([]byte, error)
}

// Network carries calls to other nodes' services; see Service.HandleCall. A
// call is carried out once at most.
type Network interface {
	Call(ctx context.Context, to id.Node, method uint16, request []byte) ([]byte, error)
}

// Directory is gossip's hint of where the catalog's replicas are.
type Directory interface {
	Holders(id.Structure) []id.Node
}

// incarnations is what a Directory may know beside: which incarnation of a
// structure its holders say that they have. A hint, like the rest.
type incarnations interface {
	Incarnations(id.Structure) map[id.Node]id.Incarnation
	// Rebuilt lists, in any order, the structures of which a holder says that its
	// incarnation has a recovery number: few, and those of no others need a look.
	Rebuilt() []id.Structure
}

// ForHost makes a host the catalog's engine.
func ForHost(h *raftgroup.Host) Engine { return hostEngine{h} }

type hostEngine struct{ *raftgroup.Host }

func (e hostEngine) Subscribe(cfg raftgroup.SubscriptionConfig) (Subscription, error) {
	s, err := e.Host.Subscribe(cfg)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (e hostEngine) Holds(s id.Structure) bool {
	g, ok := e.Group(s)
	if !ok {
		return false
	}
	st := g.Status()
	_, learner := st.Learners[st.Replica]
	return (st.Voter || learner) && !st.Failed
}
