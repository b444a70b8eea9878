package copycat

import (
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// Status is what a node knows of itself, of the others, and of its replicas.
type Status struct {
	NodeID      string
	ClusterID   string
	Incarnation uint64 // how often this data directory was started
	// CopyCatAddress and GossipAddress are host:port, as others are told.
	CopyCatAddress string
	GossipAddress  string
	DataDir        string
	DataCenter     string
	Rack           string
	// Storage is nil while the node can write: ErrDiskFull or ErrStorageFailed
	// otherwise, and ErrClosed after Shutdown.
	Storage error
	// Leaving: Leave runs here. Structures then shows what is still to be moved, and
	// LeaveWaits, for people, what it waits for beside that.
	Leaving    bool
	LeaveWaits string
	// Nodes are those that gossip has seen, this one included. Alive is a hint.
	Nodes []NodeStatus
	// Structures are the replicas that this node hosts, the catalog's included.
	Structures []StructureStatus
	// SetAside are replicas whose log is damaged on this node's disk.
	SetAside []SetAsideStatus
	// Superseded are replicas that this node keeps for an operator, of groups
	// that were rebuilt from another replica (copycat recover): not used any more.
	Superseded []SupersededStatus
}

// SupersededStatus is a replica of an earlier life of a structure, or of the
// catalog. The command copycat purge removes it.
type SupersededStatus struct {
	ID          ID
	Incarnation id.Incarnation // the earlier one
}

// SetAsideStatus is a replica whose log cannot be proven whole: it is kept for
// an inquiry, and neither votes nor serves. The node gets a new one from the
// group.
type SetAsideStatus struct {
	ID        ID     // zero: what is left does not tell
	ReplicaID uint64 // 0: what is left does not tell
	Why       string
	File      string // in the data directory's wal; "" if not known any more
	Offset    int64  // in File; -1: not known
}

// NodeStatus is one node, as gossip sees it.
type NodeStatus struct {
	NodeID         string
	CopyCatAddress string
	GossipAddress  string
	DataCenter     string
	Rack           string
	Alive          bool
	Leaving        bool      // it has said that it leaves in order, or has left
	Since          time.Time // when Alive changed last
}

// StructureStatus is this node's replica of one data structure.
type StructureStatus struct {
	ID          ID
	Incarnation id.Incarnation
	Catalog     bool // it is CopyCat's own catalog
	// Role is "leader", "follower", "candidate", "learner", "prepared" (its
	// birth is not decided), "waiting for snapshot", "stopped", or for a moment
	// "starting".
	Role string
	// Interactive: a subscription of this process hangs on it.
	Interactive bool
	Leader      string   // NodeID of the leader, empty if none is known: then nothing is committed
	Voters      []string // NodeIDs
	Learners    []string // NodeIDs
	// Commit and Applied are positions in the raft log; Commits counts the
	// changes that subscribers got or will get.
	Commit   uint64
	Applied  uint64
	Commits  uint64
	Snapshot uint64 // the newest snapshot held is of that many commits
	Sessions int    // proposing subscriptions, on all nodes
	// Options are those of the structure, as this replica knows them.
	Options Options
	// QuorumLost: this replica has known no leader for several election
	// time-outs.
	QuorumLost bool
	// Quiet: nothing is to be done, so the replica neither sends nor expects
	// heartbeats until something is.
	Quiet bool
	// ReplicaID names this replica in its group, for good; Term is raft's.
	ReplicaID uint64
	Term      uint64
	// Lag is how many log entries are committed and not applied here.
	Lag uint64
	// LeaderDataCenter is where the leader is, as far as gossip knows.
	LeaderDataCenter string
	// Members are all replicas of the group, as this one knows them.
	Members []MemberStatus
	// Deleted: the structure was deleted, and this replica is about to go.
	Deleted bool
	// LastError is the last thing that went wrong with this replica.
	LastError error
	// Waits says, at the leader and for people, why the structure's replicas
	// are not (yet) where they should be: "no node can take its place". Empty:
	// they are, or this replica does not lead. On a node that leaves, it is what
	// the leader has said, or that it has not. Where no leader is known it says
	// which voters are missing for one, as far as gossip tells.
	Waits string
}

// Options are those of a data structure: see the options of
// AllocateNewDataStructure.
type Options struct {
	Voters                int
	DataCenters           int // over which voters are spread; 0: as many as there are voters
	LearnersPerDataCenter int
	PinnedDataCenters     []string // empty: all
	PreferredDataCenter   string   // of the leader; empty: any
	SnapshotEntries       uint64
	SnapshotBytes         uint64
}

func publicOptions(o raftgroup.Options) Options {
	return Options{
		Voters: int(o.Voters), DataCenters: int(o.DataCenters), LearnersPerDataCenter: int(o.LearnersPerDataCenter),
		PinnedDataCenters: slices.Clone(o.PinnedDataCenters), PreferredDataCenter: o.PreferredDataCenter,
		SnapshotEntries: o.SnapshotEntries, SnapshotBytes: o.SnapshotBytes,
	}
}

// Status implements CopyCat.
func (n *node) Status() Status {
	self := n.dir.get()
	s := Status{
		NodeID: self.NodeID, ClusterID: self.ClusterID, Incarnation: self.Incarnation,
		CopyCatAddress: net.JoinHostPort(n.cfg.Hostname, strconv.Itoa(self.CopyCatPort)),
		GossipAddress:  net.JoinHostPort(n.cfg.Hostname, strconv.Itoa(self.GossipPort)),
		DataDir:        n.cfg.CopyCatDataDir, DataCenter: n.cfg.DataCenter, Rack: n.cfg.Rack, Storage: n.closedIfSo(n.wal.Health()),
		Leaving: n.leaving.Load(),
	}
	if s.Leaving {
		s.LeaveWaits = n.host.Load().Unsettled()
	}
	for _, o := range n.gossip.Load().Nodes() {
		s.Nodes = append(s.Nodes, NodeStatus{
			NodeID: o.ID.String(), CopyCatAddress: o.Transport, GossipAddress: o.Address,
			DataCenter: o.DataCenter, Rack: o.Rack, Alive: o.Alive, Leaving: o.Left, Since: o.Since,
		})
	}
	for _, g := range n.host.Load().Groups() {
		one := structureStatus(g)
		one.describeMembers(g, s.Nodes, systemClock{}.Now())
		s.Structures = append(s.Structures, one)
	}
	for _, a := range n.host.Load().Aside() {
		s.SetAside = append(s.SetAside, SetAsideStatus{ID: a.Group.Structure, ReplicaID: uint64(a.Replica), Why: a.Why, File: a.File, Offset: a.Offset})
	}
	for _, k := range n.host.Load().Kept() {
		s.Superseded = append(s.Superseded, SupersededStatus{ID: k.Structure, Incarnation: k.Incarnation})
	}
	return s
}

func structureStatus(g raftgroup.GroupStatus) StructureStatus {
	s := StructureStatus{
		ID: g.Group.Structure, Incarnation: g.Group.Incarnation, Catalog: g.Group.Structure == catalog.ID,
		Role: g.Role, Interactive: g.Interactive, Quiet: g.Quiet, Options: publicOptions(g.Options), QuorumLost: g.QuorumLost,
		Commit: g.Commit, Applied: g.Applied, Commits: g.Commits, Snapshot: g.Snapshot.Commits, Sessions: g.Sessions,
		LastError: g.LastError, Waits: g.Waits,
	}
	if !g.LeaderNode.IsZero() {
		s.Leader = g.LeaderNode.String()
	}
	s.Voters, s.Learners = nodeNames(g.Voters), nodeNames(g.Learners)
	return s
}
