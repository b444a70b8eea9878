package raftgroup

import (
	"context"
	"io"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/wal"
)

// LogStore is what the host needs of the node's durable log: one store for all
// groups. *wal.Log is the real one; its documentation has the contract.
type LogStore interface {
	NewGroup() (uint64, error)
	Submit(updates []wal.Update, done func(error))
	State(group uint64) (wal.GroupState, error)
	Groups() []wal.GroupState
	Suspects() []wal.Suspect
	Entries(group, lo, hi, maxBytes uint64) ([]*raftpb.Entry, error)
	Term(group, index uint64) (uint64, error)
	FirstIndex(group uint64) (uint64, error)
	LastIndex(group uint64) (uint64, error)
	// Rest lets the store forget what it keeps in memory of a group's entries for
	// those who read the newest: nobody will for a while. Nothing else follows from it.
	Rest(group uint64)
	// Health is nil while the store takes writes.
	Health() error
}

// Message goes from a replica on one node to a replica on another.
type Message struct {
	Group    id.Group
	From, To id.Replica
	Payload  []byte
	// Parts follow the payload. They are shared with the log, and must not be
	// changed. A message that comes in has none: its payload is the receiver's.
	Parts  [][]byte
	Urgent bool
}

// Bytes returns the payload with all its parts.
func (m Message) Bytes() []byte {
	if len(m.Parts) == 0 {
		return m.Payload
	}
	return slices.Concat(append([][]byte{m.Payload}, m.Parts...)...)
}

// Network carries messages, calls and bulk streams between nodes.
type Network interface {
	// Send takes the payload over and never blocks. It may hold the message
	// back until Flush. An error means that the message is lost; nil promises
	// nothing.
	Send(to id.Node, m Message) error
	// Flush lets out what Send holds back. It never blocks. A worker calls it
	// when it has stepped some groups, or has none left to step.
	Flush()
	// Call asks another node's host (or this one's); see Host.HandleCall.
	Call(ctx context.Context, to id.Node, method uint16, request []byte) ([]byte, error)
	// Fetch opens a stream that another node's host writes; see Host.HandleStream.
	Fetch(ctx context.Context, to id.Node, request []byte) (io.ReadCloser, error)
}

// Node is what gossip knows of a live node: a hint.
type Node struct {
	ID          id.Node
	Incarnation uint64
	DataCenter  string
	Rack        string
	Capacity    uint32
	Leaving     bool // it has said that it leaves in order: it must not hold replicas
}

// Directory is what gossip knows: hints, never the truth.
type Directory interface {
	// Nodes returns the live nodes, this one included.
	Nodes() []Node
	// Holders returns the live nodes that host a replica of a structure.
	Holders(s id.Structure) []id.Node
	// Publish tells the others which replicas this node hosts.
	Publish(replicas []Hosted)
}

// Hosted is one replica that a node hosts.
type Hosted struct {
	Group   id.Group
	Replica id.Replica
	Voter   bool
	Leader  bool
}

// Clock tells the time.
type Clock interface{ Now() time.Time }
