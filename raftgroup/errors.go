package raftgroup

import (
	"errors"
	"fmt"

	"github.com/copycat-replication/copycat/id"
)

// Errors about a proposal. They reach the user inside a *ProposalError.
var (
	// ErrProposalTooLarge says that a proposal is above the limit; it was not proposed.
	ErrProposalTooLarge = errors.New("proposal is too large")
	// ErrNilProposal says that nil was proposed; nil means "load a snapshot" on the way back.
	ErrNilProposal = errors.New("a proposal must not be nil")
	// ErrProposalExpired says that the deadline passed first; the proposal was never committed and never will be.
	ErrProposalExpired = errors.New("proposal expired before it was committed")
	// ErrNeverCommitted says that the proposal was not committed and never will be.
	ErrNeverCommitted = errors.New("proposal was never committed")
	// ErrOutcomeUnknown says that the proposal may or may not have been committed.
	ErrOutcomeUnknown = errors.New("outcome of the proposal is unknown")
)

// Errors about a structure or a subscription.
var (
	// ErrTooManySessions says that the structure has as many proposing subscriptions as it may have.
	ErrTooManySessions = errors.New("too many sessions on this data structure")
	// ErrSessionEnded says that the group ended the subscription's session; a new one is opened.
	ErrSessionEnded = errors.New("session was ended by its group, which took this node for gone; a new one is opened")
	// ErrDeleted says that the data structure was deleted.
	ErrDeleted = errors.New("data structure was deleted")
	// ErrRebuilt says that an operator rebuilt the structure from one replica,
	// after its quorum was lost: commits of the old life may be missing in it.
	ErrRebuilt = errors.New("data structure was rebuilt from one of its replicas")
	// ErrOtherLife says that the catalog, which was rebuilt in between, knows another
	// life of the structure than the replica here, which nobody leads: whether the
	// one here was deleted is not known, so it is kept until an operator decides.
	ErrOtherLife = errors.New("the catalog has another life of the data structure than this node's replica, which has no leader")
	// ErrClosed says that the subscription, the host or the node is closed.
	ErrClosed = errors.New("closed")
	// ErrNoSnapshotDue says that a SnapshotConsumer was called without a nil on the commit channel before it.
	ErrNoSnapshotDue = errors.New("no snapshot is due: call the consumer once for each nil on the commit channel")
	// ErrProvider says that the user's snapshot provider failed or panicked.
	ErrProvider = errors.New("snapshot provider failed")
	// ErrNoProvider says that a subscription needs a snapshot provider.
	ErrNoProvider = errors.New("snapshot provider must not be nil")
	// ErrBaseTooLarge says that what the first subscriber brings along is above
	// 32 MiB. Start with less, and propose the rest.
	ErrBaseTooLarge = errors.New("the first snapshot is too large to start a data structure with")
	// ErrProviderSlow says that the user's snapshot provider has not returned for a long time.
	ErrProviderSlow = errors.New("snapshot provider has not returned")
	// ErrSlowConsumer says that nobody has read the commit channel for a long time.
	ErrSlowConsumer = errors.New("commit channel is not read")
	// ErrUndelivered says that a subscription ended before it was handed all of its
	// own changes that were committed: nothing comes any more from where it would
	// get them. They stand in the order all the same.
	ErrUndelivered = errors.New("the subscription ended before all of its own committed changes were delivered to it")
	// ErrNotLeader says that the replica asked does not lead its group.
	ErrNotLeader = errors.New("not the leader")
	// ErrUnknownGroup says that this node has no replica of that structure.
	ErrUnknownGroup = errors.New("no replica of this data structure on this node")
	// ErrGroupFailed says that this node's replica stopped; the cause is wrapped.
	ErrGroupFailed = errors.New("replica stopped")
	// ErrLeaving says that this node leaves its cluster and gets no new replicas.
	ErrLeaving = errors.New("node leaves the cluster")
	// ErrBusy says that a bounded queue is full.
	ErrBusy = errors.New("busy")
)

// ProposalError is an error about one proposal.
type ProposalError struct {
	Structure id.Structure
	Proposal  []byte // the bytes as they were proposed; they belong to who receives the error
	Err       error
}

// Error says what happened, to how many bytes, and of which structure.
func (e *ProposalError) Error() string {
	return fmt.Sprintf("structure %s: proposal of %d bytes: %v", e.Structure, len(e.Proposal), e.Err)
}

// Unwrap makes errors.Is see the cause.
func (e *ProposalError) Unwrap() error { return e.Err }
