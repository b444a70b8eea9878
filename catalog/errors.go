package catalog

import (
	"errors"
	"fmt"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

var (
	// ErrCatalogUnavailable says that no holder of the catalog answered in
	// time, or that the catalog has no quorum. It wraps the last cause and, if
	// that ended the wait, the context's error. A command that was under way
	// may still take effect.
	ErrCatalogUnavailable = errors.New("catalog is not available")
	// ErrUnknown says that no data structure of that ID, or of that
	// incarnation, was ever born.
	ErrUnknown = errors.New("data structure is not known")
	// ErrDeleted says that the data structure was deleted. Its ID is free again,
	// for who creates it anew.
	ErrDeleted = raftgroup.ErrDeleted
	// ErrExists says that a data structure of that ID lives already. The error
	// that satisfies it is an *ExistsError.
	ErrExists = errors.New("data structure exists")
	// ErrNoNodes says that a birth found no node that could take a replica.
	ErrNoNodes = errors.New("no node can take a replica")
	// ErrInvalid says that a command or a call makes no sense; to repeat it is in vain.
	ErrInvalid = errors.New("invalid catalog request")
	// ErrBusy says that a bound on what a node does at the same time is reached.
	ErrBusy = errors.New("catalog service is busy")
	// ErrNewerFormat says that a newer version of CopyCat wrote what was to be read.
	ErrNewerFormat = errors.New("newer catalog format")
	// ErrClosed says that the service is closed.
	ErrClosed = errors.New("catalog service is closed")
)

// errNotHolder says that a node has no replica of the catalog: ask another one.
var errNotHolder = errors.New("no replica of the catalog here")

// errNoLeader says what a command has waited for in vain.
var errNoLeader = errors.New("the catalog has no leader; does a majority of its voters run?")

// errAgain says that a command may or may not have been applied, and has to be
// given again.
var errAgain = errors.New("outcome is not known")

// ExistsError is ErrExists with the record of what exists.
type ExistsError struct{ Record Record }

// Error names the structure and its incarnation.
func (e *ExistsError) Error() string {
	return fmt.Sprintf("structure %s: %v, born at %d", e.Record.Structure, ErrExists, e.Record.Incarnation.Birth)
}

// Is reports whether target is ErrExists.
func (e *ExistsError) Is(target error) bool { return target == ErrExists }

// DeletedError is ErrDeleted with the incarnation that is gone.
type DeletedError struct {
	Structure   id.Structure
	Incarnation id.Incarnation
}

// Error names the structure and its incarnation.
func (e *DeletedError) Error() string {
	return fmt.Sprintf("structure %s: %v, born at %d", e.Structure, ErrDeleted, e.Incarnation.Birth)
}

// Is reports whether target is ErrDeleted.
func (e *DeletedError) Is(target error) bool { return target == ErrDeleted }
