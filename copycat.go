// Package copycat is a library that carries data structures across data
// centers. A program keeps its own map, queue or index in its own memory;
// CopyCat carries every change to every other program that subscribes to the
// same structure, in one total order, each change exactly once, and keeps the
// history alive on replicas that need no subscriber. There is no server to run.
//
// # A node
//
// [NewCopyCat] starts one, from a [Config]; [DefaultConfig] has what is usual. A
// program has one node in general, and each node a data directory of its own.
// [CopyCat.Status] and [CopyCat.Events] say how it does, [CopyCat.Shutdown] ends
// it for a restart, [CopyCat.Leave] takes it out of the cluster.
//
// # The life of a subscription
//
// [CopyCat.SubscribeToDataStructure] returns three channels and a function.
// Send changes on the first; receive all changes, everybody's and your own,
// from the second, and apply them to your data in that order; log what comes
// from the third. A nil on the commit channel means: call the
// [SnapshotConsumer] and replace your data by what it returns.
//
//	proposeCh, commitCh, errorCh, consume, err := cc.SubscribeToDataStructure(id, provider)
//	// if err != nil, there is no subscription
//	go func() {
//		for err := range errorCh {
//			// log it; a *ProposalError has the bytes of a change that did not get through
//		}
//	}()
//	go func() {
//		for change := range commitCh {
//			if change == nil {
//				snapshot, err := consume()
//				// replace all of it; with an error, something was missed
//				continue
//			}
//			// apply one change
//		}
//	}()
//	proposeCh <- []byte("a change")
//
// To unsubscribe, close the propose channel, when nobody sends on it any more,
// and go on receiving: what was sent is still delivered or reported, then the
// commit channel is closed, then the error channel. A subscription that nobody
// reads to its end stays until Shutdown.
//
// # What is promised
//
// Every subscriber sees the same sequence of commits, of which a prefix may be
// replaced by a snapshot. A proposal appears in it once or never; "never", and
// "cannot know", are said on the error channel. What was delivered anywhere
// was on the disks of a majority before.
//
// docs/guarantees.md says for each fault what you see, docs/operations.md what to
// do about each error, and docs/architecture.md how it works.
package copycat

import (
	"context"

	"github.com/copycat-replication/copycat/id"
)

// ID names a data structure: a ULID, printed as 26 characters.
type ID = id.Structure

// ParseID reads the 26 characters of a data structure's ID, strictly: anything
// else is [ErrMalformedID]. Upper and lower case mean the same.
func ParseID(s string) (*ID, error) {
	structure, err := id.ParseStructure(s)
	if err != nil {
		return nil, err
	}
	return &structure, nil
}

// SnapshotProvider serializes the subscriber's data structure. CopyCat calls it
//
//   - once at the start of the very first subscription of a structure, from a
//     goroutine of its own, before anything is delivered: what the program had
//     before becomes the base that everybody starts from, 32 MiB at most
//     (ErrBaseTooLarge: it is asked again);
//   - once at the start of another subscription, in the same way, as long as the
//     structure has no snapshot, or an empty one: if the program holds something,
//     it has to be replaced by what everybody starts from, even if that is
//     nothing, and only the provider can tell. Its bytes are not used. One that
//     fails counts as one that holds something;
//   - inside a call of the SnapshotConsumer, on the goroutine that called: by
//     then the consumer has applied exactly the commits before the nil.
//
// Never two calls at a time for one subscription. So it may read the data
// without a lock, as long as nobody but the receiving goroutine changes them, and
// it must not want a lock that the goroutine holds while it calls the
// SnapshotConsumer. A nil is no bytes, like an empty slice.
//
// The bytes belong to CopyCat from then on, and must not be changed: those of the
// first two kinds of calls for good; those of the third are what the call of the
// SnapshotConsumer returns, to whose caller they belong then.
//
// An error, or a panic, goes to the error channel as [ErrProvider]. Who was to
// bring the base is asked again, as long as there is none. Inside a
// SnapshotConsumer, that returns the newest snapshot that exists, and the commits
// after it are delivered again. A provider that does not return holds up this
// subscription alone: see [ErrProviderSlow].
type SnapshotProvider func() ([]byte, error)

// SnapshotConsumer returns the bytes to load: to be called once for each nil
// on the commit channel, by the goroutine that received it, when all commits
// before the nil are applied and before it receives anything else. Nothing
// follows a nil until the call has returned. The bytes belong to the caller; none
// is an empty slice. It waits for the provider, or for the disk, or until the
// snapshot has come from another node.
//
// Before the nil has been received, and for the second time, it returns
// [ErrNoSnapshotDue], and changes nothing. After the subscription has ended it
// returns [ErrClosed], perhaps also for a nil that was received before.
type SnapshotConsumer func() ([]byte, error)

// CopyCat is one node of a cluster. All methods are safe for concurrent use.
type CopyCat interface {
	// NewDataStructureID makes an ID that nobody else makes. Nothing is
	// created by it; the first subscription, or AllocateNewDataStructure, does.
	NewDataStructureID() (*ID, error)

	// AllocateNewDataStructure creates a data structure with options, and
	// returns its ID. It waits up to Config.JoinTimeout for the catalog
	// (ErrCatalogUnavailable), and for nodes that the options allow (ErrNoNodes).
	// After an error it may exist all the same, under an ID that only
	// DataStructures tells; who wants to try again, makes an ID and uses
	// CreateDataStructure. Other errors: ErrInvalidOptions, ErrLeaving, ErrClosed.
	AllocateNewDataStructure(opts ...AllocationOption) (*ID, error)

	// AlterDataStructure changes options of a data structure; those that are not
	// given stay. The change is a committed entry of the structure's own group:
	// the group's leader moves replicas to where they belong by then, which may
	// take a while. It waits until the change is committed or ctx ends; then it
	// may still happen. Errors: ErrInvalidOptions, ErrDeleted, ErrUnknownStructure,
	// ErrMalformedID, ErrClosed, ctx.Err(), each wrapped.
	AlterDataStructure(ctx context.Context, id *ID, opts ...AllocationOption) error

	// CreateDataStructure creates a data structure of a given ID: ErrExists if
	// there is one. It is the only way back for an ID that was deleted: the new
	// structure is empty, and has nothing of the old one. It waits until ctx ends
	// for the catalog (ErrCatalogUnavailable), and for nodes that the options allow
	// (ErrNoNodes); then it may still be created, and ErrExists is what trying again
	// gives. Other errors: ErrInvalidOptions, ErrMalformedID, ErrLeaving, ErrClosed.
	CreateDataStructure(ctx context.Context, id *ID, opts ...AllocationOption) error

	// DeleteDataStructure deletes a data structure, for good and for everybody:
	// what was committed before is still delivered, then each subscription gets
	// ErrDeleted, and its channels close. Replicas and files go on all nodes, also
	// on those that are away at present, once they are back. Subscribing to the ID
	// fails with ErrDeleted from then on, until CreateDataStructure.
	// It needs a quorum of the structure and one of the catalog, and waits for both
	// until ctx ends; then the structure may be deleted or not. Deleting what is
	// deleted changes nothing. Errors: ErrUnknownStructure, ErrMalformedID, ErrClosed;
	// when ctx ends ErrCatalogUnavailable, or ctx.Err() alone if it is the structure
	// that has no quorum.
	DeleteDataStructure(ctx context.Context, id *ID) error

	// DataStructures lists all data structures of the cluster, in the order of
	// their IDs. It needs a quorum of the catalog, and waits for it until ctx
	// ends (ErrCatalogUnavailable); everything else goes on without one.
	DataStructures(ctx context.Context) ([]DataStructure, error)

	// SubscribeToDataStructure subscribes to a data structure, and creates it
	// if there never was one of that ID; one that was deleted is ErrDeleted. It
	// returns at once where this node knows the structure, whether or not it has a
	// quorum; a structure that nobody knows is created, with the defaults of all
	// options, which waits up to Config.JoinTimeout (ErrCatalogUnavailable,
	// ErrNoNodes). A node that has not heard of a deletion yet may return no error,
	// and say ErrDeleted on the error channel. Other errors: ErrNoProvider,
	// ErrMalformedID (nil, zero, or that of CopyCat's own catalog), ErrLeaving,
	// ErrClosed. After an error all else that it returns is nil.
	//
	// A program may subscribe several times to one structure: each subscription has
	// channels, and a provider, of its own, and gets everything.
	//
	// The propose channel takes changes, from any number of goroutines. The bytes
	// belong to CopyCat from then on: do not change them. An empty change is
	// delivered as an empty one; a nil is refused (ErrNilProposal). Sending blocks
	// while more than Config.WindowBytes wait for their fate and 256 more changes
	// wait in the channel; without a quorum, until there is one.
	//
	// Closing the propose channel unsubscribes. As with any channel, nobody may send
	// on it any more, and it is closed once. The commit channel closes when all that
	// was sent is settled, for which it needs a quorum, and what is committed of it
	// was received, or else with ErrUndelivered. So go on receiving, from both
	// channels, until they are closed.
	//
	// After Shutdown (and Leave) nobody receives from the propose channel: what
	// still fits into it is lost without a word, and then sending blocks for good.
	// So stop sending before, or when the commit channel closes.
	//
	// The commit channel hands out all changes in their order; the slices
	// belong to the receiver, and are never nil: see SnapshotConsumer. Not reading it delays this subscription alone,
	// and gives a warning (ErrSlowConsumer) on the error channel after a while;
	// 256 changes of together 4 MiB wait in it, or one that is larger.
	//
	// The error channel hands out *ProposalError for proposals that were not
	// committed, or may not have been, and warnings. It is closed after the
	// commit channel. When it is not read, the oldest warnings are dropped;
	// errors about proposals are kept, and fill the propose channel's window;
	// kept is also why the subscription ended (ErrDeleted, ErrRebuilt), and that
	// not all was delivered (ErrUndelivered). Shutdown waits for no reader.
	//
	// When the structure is deleted, the error channel says ErrDeleted, and both
	// close, the error channel last; what is sent until the commit channel closes is
	// reported, and sending after that blocks for good, as after Shutdown.
	SubscribeToDataStructure(id *ID, provider SnapshotProvider) (chan<- []byte, <-chan []byte, <-chan error, SnapshotConsumer, error)

	// SubscribeToDataStructureWithStringID is SubscribeToDataStructure with
	// the ID as text: ErrMalformedID if it is none.
	SubscribeToDataStructureWithStringID(id string, provider SnapshotProvider) (chan<- []byte, <-chan []byte, <-chan error, SnapshotConsumer, error)

	// Status says how this node and its replicas do. It waits neither for the disk
	// nor for other nodes; its cost grows with the number of replicas here. What it
	// returns belongs to the caller. Roles and members are those of now, positions may be
	// some tenths of a second old. After Shutdown it goes on to tell what it was.
	Status() Status

	// Events subscribes to what happens to the structures of which this node
	// holds a replica, from now on. buffer is how many events wait to be read (1
	// at least, 65,536 at most): above, the oldest are dropped and counted. Close
	// ends it. After Shutdown its channel is closed from the beginning.
	Events(buffer int) *EventSubscription

	// Leave takes the node out of its cluster for good: leaderships and voters
	// move to other nodes first, and Shutdown follows when none of its replicas is
	// a member of any group. Where no node can take a voter's place the structure
	// goes on with fewer voters: 3 nodes that become 2 keep one voter and one
	// learner. Subscriptions of this node end at once, as by Shutdown: close
	// their propose channels before, and wait for the end of their commit channels,
	// if everything that was sent is to be delivered.
	//
	// It waits until that is done: for seconds, or as long as the largest
	// snapshot takes to another node. Status shows what is left. When ctx ends
	// first it returns a *LeaveError with what is still here, and the node goes
	// on, with the replicas that it has: subscribe again, if it is to be used. If no
	// other node is alive nothing is done, and its subscriptions go on too: a
	// *LeaveError with ErrNoOtherNode. ErrLeaving: another call is under way, as
	// creating and subscribing say meanwhile. ErrClosed after Shutdown, or, in a
	// *LeaveError, when that came first.
	Leave(ctx context.Context) error

	// Shutdown ends the node, and moves nothing: it is for a restart (Leave is for
	// good), and for the last node of a cluster. Subscriptions end, with their
	// unresolved proposals reported; when it returns, goroutines
	// have ended and ports and files are free. It waits for unread errors
	// to be read, a second if nobody reads and some seconds at most, and does not wait
	// for a SnapshotProvider that blocks. The goroutine of a consumer may call it, and a provider. Calling it
	// again does nothing, but waits for a call that is under way. The other nodes
	// take the node for crashed, until it is back.
	Shutdown()
}
