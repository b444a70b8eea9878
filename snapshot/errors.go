package snapshot

import (
	"errors"
	"fmt"
)

// Errors, wrapped with the group and the file. A full disk comes through as
// vfs.ErrNoSpace, other I/O errors as the file system gave them.
var (
	// ErrNotFound says that the store holds no complete file of that Ref.
	ErrNotFound = errors.New("snapshot not found")
	// ErrNewerFormat says that a file was written by a newer major version.
	ErrNewerFormat = errors.New("snapshot written by a newer version")
	// ErrMismatch says that a file is intact, as far as it was read, and not
	// the one that the Ref names.
	ErrMismatch = errors.New("not the snapshot that was asked for")
	// ErrReceiving says that another Receiver works on the same Ref.
	ErrReceiving = errors.New("snapshot already being received")
	// ErrIncomplete says that a Receiver was committed before it had every byte.
	ErrIncomplete = errors.New("snapshot not received completely")
	// ErrTooLarge says that the state does not fit into a head.
	ErrTooLarge = errors.New("state too large for a snapshot")
	// ErrClosed says that the Store, Writer, Reader or Receiver was closed.
	ErrClosed = errors.New("snapshot store or file closed")
)

// DamageError says that a file is not what was written: where, and what does
// not fit. Set the file aside and fetch it again.
type DamageError struct {
	File   string // path
	Offset int64  // of the part that does not check
	What   string
}

// Error implements error.
func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at %d: %s", e.File, e.Offset, e.What)
}
