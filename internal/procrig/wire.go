package procrig

import (
	"encoding/json"

	"github.com/copycat-replication/copycat/internal/history"
)

// request is what the rig tells a child: one JSON line.
type request struct {
	Number int             `json:"n"`
	Do     string          `json:"do"`
	With   json.RawMessage `json:"with,omitempty"`
}

// reply answers a request, as one JSON line. Replies come in any order.
type reply struct {
	Number int             `json:"n"`
	Error  string          `json:"error,omitempty"`
	Is     string          `json:"is,omitempty"` // name of the sentinel, if it is a known one
	Result json.RawMessage `json:"result,omitempty"`
}

// startRequest starts the node.
type startRequest struct {
	Hostname        string
	BindAddress     string
	CopyCatPort     int
	GossipPort      int
	DataDir         string
	Peers           []string
	DataCenter      string
	JoinTimeout     string
	ReplaceAfter    string // empty: the default
	SnapshotEntries uint64
	History         string // file
	Stalls          string // file
	Node            uint16
	Process         uint32
}

// subscribeRequest starts a subscription.
type subscribeRequest struct {
	ID         string
	Subscriber history.Subscriber
	Padding    int // bytes that make its snapshots larger
}

// loadRequest starts proposing in the background, or stops it: Pause is then
// not looked at.
type loadRequest struct {
	Subscription uint32
	On           bool
	Pause        string // between two proposals
	Size         int
	Registers    bool // few keys, few proposals at a time: for a check of linearizability
}

// proposeRequest proposes a number of changes; the reply comes when they were sent.
type proposeRequest struct {
	Subscription uint32
	Count        int
	Size         int
}

// numberRequest is about one subscription.
type numberRequest struct {
	Subscription uint32
}

// allocateRequest makes a data structure that is not as the default; the answer
// is its ID.
type allocateRequest struct {
	Voters int
}

// leaveRequest has the node leave its cluster; once it has, its process ends.
type leaveRequest struct {
	Within string
}

// SubscriptionState is how a subscription does.
type SubscriptionState struct {
	Len      int      // items that its data structure holds
	Digest   uint64   // of them, in their order
	Open     int      // own proposals neither delivered nor reported
	Proposed int      // own proposals
	Loads    int      // nils served
	Ended    bool     // its channels are closed
	Errors   []string // the last ones of its error channel
	Notices  []string // the first ones that are not about a proposal
	Troubles []string // what must never happen
}

// StructureState is one replica, as its node's Status shows it.
type StructureState struct {
	ID          string
	Role        string
	ReplicaID   uint64
	Members     map[uint64]bool // ReplicaIDs; true: a voter
	Leader      string
	Voters      []string
	Learners    []string
	Commit      uint64
	Applied     uint64
	Commits     uint64
	Snapshot    uint64
	Sessions    int
	Interactive bool
	Catalog     bool
	Waits       string
	LastError   string
}

// State is a node's Status.
type State struct {
	NodeID      string
	ClusterID   string
	Incarnation uint64
	Storage     string // empty: it can write
	StorageIs   string // name of the sentinel
	Leaving     bool
	Alive       int
	Structures  []StructureState
	SetAside    []string // IDs of the structures whose replicas were set aside, and where they are damaged
	Goroutines  int
}

// Structure finds the replica of a structure.
func (s *State) Structure(id string) (StructureState, bool) {
	for _, st := range s.Structures {
		if st.ID == id && st.Role != "prepared" {
			return st, true
		}
	}
	return StructureState{}, false
}
