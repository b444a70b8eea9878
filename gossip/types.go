package gossip

import (
	"time"

	"github.com/copycat-replication/copycat/id"
)

// Node is what gossip knows of one node of the cluster. It is a copy: the
// receiver owns it.
type Node struct {
	ID          id.Node
	Incarnation uint64 // the node's process boot counter
	Address     string // host:port of its gossip
	Transport   string // host:port of its node-to-node transport
	DataCenter  string
	Rack        string
	Capacity    uint32
	Version     uint32
	// Alive is gossip's opinion: a hint, wrong for a while after a crash, a
	// partition, or on a loaded machine.
	Alive bool
	// Left says that the node announced that it leaves in order: it is about to
	// while it is alive, and has when it is not. A left node does not come back
	// by itself.
	Left bool
	// Since is when this observer saw Alive change last, by its own clock.
	Since time.Time
}

// Replica is one replica that a node hosts, as the directory carries it.
type Replica struct {
	Group id.Group
	ID    id.Replica
	// Role is the publisher's word for what the replica is (voter, learner, …).
	// Gossip carries it and does not read it.
	Role uint8
}

// Holding is one replica together with the node that says that it hosts it.
type Holding struct {
	Node id.Node
	Replica
}

// Stats counts what a Gossip did since Start. Nodes to Behind are gauges.
type Stats struct {
	Nodes    int    // known nodes of the cluster, self and dead ones included
	Alive    int    // of these, alive
	Replicas int    // replicas in the directory, self's included
	Behind   int    // nodes whose list this node knows to be incomplete
	Queued   int    // broadcasts that wait for packets
	Health   int    // memberlist's health score: 0 is well, larger is slower
	Changes  uint64 // how often Changed fired

	DeltasSent     uint64 // broadcasts queued, relayed ones included
	DeltasReceived uint64
	Reminders      uint64 // packets that told a peer how far recent lists reach
	WantsSent      uint64
	WantsReceived  uint64
	PagesSent      uint64
	PagesReceived  uint64
	BytesSent      uint64 // of wants and pages
	SendFailures   uint64
	Malformed      uint64 // messages that could not be decoded
	Foreign        uint64 // contacts and messages of another cluster
	Dropped        uint64 // messages dropped at a full queue, and broadcasts pruned
	Refused        uint64 // updates refused at a bound of the directory
	Contacts       uint64 // addresses contacted, successfully or not
}
