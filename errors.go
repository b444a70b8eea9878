package copycat

import (
	"errors"
	"fmt"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/gossip"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/transport"
	"github.com/copycat-replication/copycat/wal"
)

// ProposalError is an error about one proposal: it carries its bytes, and
// wraps the cause.
type ProposalError = raftgroup.ProposalError

// Causes of a ProposalError.
var (
	// ErrProposalTooLarge: above Config.MaxProposalBytes; it was not proposed.
	ErrProposalTooLarge = raftgroup.ErrProposalTooLarge
	// ErrNilProposal: a nil was proposed.
	ErrNilProposal = raftgroup.ErrNilProposal
	// ErrProposalExpired: Config.ProposalTimeout passed; it was not committed and will not be.
	ErrProposalExpired = raftgroup.ErrProposalExpired
	// ErrNeverCommitted: it was not committed and will not be.
	ErrNeverCommitted = raftgroup.ErrNeverCommitted
	// ErrOutcomeUnknown: it may have been committed, or may yet be.
	ErrOutcomeUnknown = raftgroup.ErrOutcomeUnknown
)

// Errors of subscriptions, and of calls about one data structure.
var (
	// ErrProvider: the snapshot provider failed or panicked.
	ErrProvider = raftgroup.ErrProvider
	// ErrProviderSlow: the snapshot provider has not returned for 30 s.
	ErrProviderSlow = raftgroup.ErrProviderSlow
	// ErrBaseTooLarge: what the first subscription's provider returned is too
	// large (above 32 MiB) to start a data structure with.
	ErrBaseTooLarge = raftgroup.ErrBaseTooLarge
	// ErrNoProvider: a subscription needs a snapshot provider.
	ErrNoProvider = raftgroup.ErrNoProvider
	// ErrSlowConsumer: the commit channel is full and has not been read for 10 s, or
	// the SnapshotConsumer has not been called for so long after a nil was sent. It is
	// said once each time.
	ErrSlowConsumer = raftgroup.ErrSlowConsumer
	// ErrNoSnapshotDue: the SnapshotConsumer was called before a nil was received,
	// or twice for one.
	ErrNoSnapshotDue = raftgroup.ErrNoSnapshotDue
	// ErrSessionEnded: the group took this node for dead and ended the
	// subscription's session; a new one is opened.
	ErrSessionEnded = raftgroup.ErrSessionEnded
	// ErrTooManySessions: the structure has as many subscriptions as it may have.
	ErrTooManySessions = raftgroup.ErrTooManySessions
	// ErrDeleted: the data structure was deleted.
	ErrDeleted = raftgroup.ErrDeleted
	// ErrRebuilt: an operator rebuilt the structure from one replica, after its
	// quorum was lost. What this subscription has delivered last may not be part
	// of it any more: subscribe again, and load.
	ErrRebuilt = raftgroup.ErrRebuilt
	// ErrOtherLife: the catalog was rebuilt, and knows another life of the structure
	// than this node's replica, which has no leader. The subscription goes on waiting
	// for one; an operator decides, see docs/operations.md.
	ErrOtherLife = raftgroup.ErrOtherLife
	// ErrUndelivered: the subscription ended before all of its own committed
	// changes were delivered to it: the structure was deleted or rebuilt, or this
	// node's disk failed and its replica is gone. They stand in the order.
	ErrUndelivered = raftgroup.ErrUndelivered
	// ErrUnknownStructure: there is no data structure of that ID.
	ErrUnknownStructure = catalog.ErrUnknown
	// ErrExists: there is a data structure of that ID.
	ErrExists = catalog.ErrExists
	// ErrInvalidOptions: an option of a structure is out of bounds, or options
	// contradict one another; the text says which.
	ErrInvalidOptions = raftgroup.ErrInvalidOptions
	// ErrReplicaStopped: this node's replica stopped; the cause is wrapped.
	ErrReplicaStopped = raftgroup.ErrGroupFailed
	// ErrLeaving: the node is leaving the cluster, or has.
	ErrLeaving = raftgroup.ErrLeaving
	// ErrClosed: the subscription or the node has ended.
	ErrClosed = raftgroup.ErrClosed
)

// Errors of NewCopyCat, of the node, and of finding or creating data structures.
var (
	// ErrConfig: the configuration is not valid; the text names every fault.
	ErrConfig = errors.New("invalid configuration")
	// ErrMalformedID: not the text of an ID.
	ErrMalformedID = id.ErrMalformed
	// ErrDataDir: the data directory cannot be used.
	ErrDataDir = errors.New("data directory is not usable")
	// ErrLocked: another node uses the data directory, of another process or of this one.
	ErrLocked = vfs.ErrLocked
	// ErrNewerFormat: the data directory was written by a newer version.
	ErrNewerFormat = raftgroup.ErrNewerFormat
	// ErrAddressInUse: another socket listens on a port of this node.
	ErrAddressInUse = errors.New("address in use")
	// ErrListen: this node cannot listen where it is to, for another reason than
	// ErrAddressInUse: most often the address is none of this machine (set
	// BindAddress), or the port is for privileged processes.
	ErrListen = errors.New("cannot listen")
	// ErrNoCluster: none of the peers answered within Config.JoinTimeout.
	ErrNoCluster = gossip.ErrNoCluster
	// ErrOtherVersion: a peer speaks another major version of the protocol; the
	// text names both. It comes wrapped in ErrNoCluster when there is no other peer.
	ErrOtherVersion = gossip.ErrVersion
	// ErrWrongCluster: a peer belongs to another cluster; the text names both.
	ErrWrongCluster = gossip.ErrWrongCluster
	// ErrCatalogUnavailable: the catalog, which decides about the birth of a
	// structure, did not answer in time. Structures that exist go on.
	ErrCatalogUnavailable = catalog.ErrCatalogUnavailable
	// ErrNoNodes: a structure cannot be created, since no node can take a replica of
	// it: none is in a data center that its options allow, or those that are do not
	// answer, or leave.
	ErrNoNodes = catalog.ErrNoNodes
	// ErrNoOtherNode: a node wants to leave, and no other one is alive that could
	// take its replicas. Wrapped in a *LeaveError.
	ErrNoOtherNode = errors.New("no other node can take the replicas of this one")
	// ErrDiskFull: the data directory's disk is below its reserve.
	ErrDiskFull = wal.ErrDiskFull
	// ErrStorageFailed: a write or fsync failed; the node does not write any more.
	ErrStorageFailed = wal.ErrFailed
)

// listenError makes the errors of the layers that listen those of this package.
func listenError(err error) error {
	switch {
	case err == nil || errors.Is(err, ErrAddressInUse):
		return err
	case errors.Is(err, gossip.ErrConfig), errors.Is(err, gossip.ErrNoAddress):
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return fmt.Errorf("%w: %w", ErrListen, err)
}

func configFault(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrConfig, fmt.Errorf(format, args...))
}

// addressInUse makes one error of those of the two layers that listen.
func addressInUse(err error) error {
	if errors.Is(err, transport.ErrAddressInUse) || errors.Is(err, gossip.ErrAddressInUse) || errors.Is(err, ErrAddressInUse) {
		return &addressError{err}
	}
	return err
}

// addressError is ErrAddressInUse in the words of the layer that met it.
type addressError struct{ err error }

func (e *addressError) Error() string        { return e.err.Error() }
func (e *addressError) Unwrap() error        { return e.err }
func (e *addressError) Is(target error) bool { return target == ErrAddressInUse }
