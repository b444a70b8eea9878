package gossip

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/copycat-replication/copycat/id"
	"github.com/hashicorp/memberlist"
)

// delegate is what memberlist calls. Every method may run in any goroutine;
// NotifyAlive, NotifyConflict and the events run under memberlist's lock. None
// of them calls memberlist, and none waits for anyone who does.
type delegate struct {
	g *Gossip
}

var (
	_ memberlist.Delegate         = delegate{}
	_ memberlist.AliveDelegate    = delegate{}
	_ memberlist.MergeDelegate    = delegate{}
	_ memberlist.EventDelegate    = delegate{}
	_ memberlist.ConflictDelegate = delegate{}
)

// errLooking refuses nodes while one side has no cluster yet. Until then a node
// stays alone in its memberlist, so that it cannot carry the nodes of one
// cluster into another, and two nodes that look do not count for each other.
var errLooking = errors.New("looking for a cluster")

func (d delegate) NodeMeta(int) []byte { return *d.g.meta.Load() }

func (d delegate) NotifyMsg(b []byte) { d.g.inbox.putMessage(b) }

func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.g.queue.GetBroadcasts(overhead, limit)
}

// LocalState is called without memberlist's lock.
func (d delegate) LocalState(bool) []byte { return d.g.hello() }

func (d delegate) MergeRemoteState(b []byte, _ bool) { d.g.inbox.putMessage(b) }

// NotifyAlive lets only live nodes of our own cluster in.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name == d.g.name {
		return nil // memberlist refutes what is said of ourselves
	}
	mine := d.g.cluster()
	if mine.IsZero() {
		return errLooking
	}
	node, m, err := identify(n)
	switch {
	case err != nil:
		d.g.inbox.putRefusal(n.Name, err.Error())
		return err
	case m.cluster.IsZero():
		return errLooking
	case m.cluster != mine:
		d.g.counters.foreign.Add(1)
		err := fmt.Errorf("%w: node %s at %s is of cluster %s, this node of %s", ErrWrongCluster, node, n.Address(), m.cluster, mine)
		d.g.inbox.putRefusal(n.Name, err.Error())
		return err
	case d.g.full(node):
		err := fmt.Errorf("%w: %d nodes", ErrTooMany, defaultLimits.nodes)
		d.g.inbox.putRefusal(n.Name, err.Error())
		return err
	}
	return nil
}

// NotifyMerge refuses the state of a peer that knows foreigners and none of us.
// A single foreigner among ours is left to NotifyAlive: or else one stray node
// could keep a cluster from merging.
func (d delegate) NotifyMerge(peers []*memberlist.Node) error {
	mine := d.g.cluster()
	var foreign *memberlist.Node
	var theirs id.Cluster
	for _, n := range peers {
		_, m, err := identify(n)
		switch {
		case err != nil || m.cluster.IsZero():
		case m.cluster == mine:
			return nil
		case foreign == nil && !mine.IsZero():
			foreign, theirs = n, m.cluster
		}
	}
	if foreign == nil {
		return nil
	}
	d.g.counters.foreign.Add(1)
	err := fmt.Errorf("%w: node %s at %s is of cluster %s, this node of %s", ErrWrongCluster, foreign.Name, foreign.Address(), theirs, mine)
	d.g.inbox.putRefusal(foreign.Name, err.Error())
	return err
}

func (d delegate) NotifyJoin(n *memberlist.Node)   { d.event(n, true) }
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.event(n, true) }
func (d delegate) NotifyLeave(n *memberlist.Node)  { d.event(n, false) }

func (d delegate) event(n *memberlist.Node, alive bool) {
	if n.Name == d.g.name {
		return
	}
	node, m, err := identify(n)
	if err != nil {
		return // NotifyAlive has let no such node in
	}
	ip, _ := netip.AddrFromSlice(n.Addr)
	d.g.inbox.putEvent(nodeEvent{node: node, alive: alive, identity: m, address: netip.AddrPortFrom(ip.Unmap(), n.Port)})
}

// NotifyConflict hears of two addresses for one name. If it is ours, someone
// still believes in the address of our last life. If it is another node's, that
// has moved, and is refused until its last life has been dead for long enough:
// it is to be asked again then.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	if existing.Name == d.g.name {
		d.g.contacts.conflicts(netip.AddrPort{})
	} else if ip, ok := netip.AddrFromSlice(other.Addr); ok {
		d.g.contacts.conflicts(netip.AddrPortFrom(ip.Unmap(), other.Port))
	}
}

// identify reads what a memberlist node says of itself. The result holds no
// memory of memberlist's.
func identify(n *memberlist.Node) (id.Node, identity, error) {
	node, err := id.ParseNode(n.Name)
	if err != nil {
		return id.Node{}, identity{}, fmt.Errorf("%w: name: %w", ErrMalformed, err)
	}
	m, err := decodeIdentity(n.Meta)
	return node, m, err
}
