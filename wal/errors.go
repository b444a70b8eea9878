package wal

import (
	"errors"
	"fmt"
)

// Errors of opening a log.
var (
	// ErrLocked says that another process, or another Log, has the directory.
	ErrLocked = errors.New("wal: directory is in use")
	// ErrNewerFormat says that a newer version of CopyCat wrote the directory.
	// Nothing was read or changed.
	ErrNewerFormat = errors.New("wal: directory has a newer format")
)

// Errors of submitting and flushing.
var (
	// ErrDiskFull is soft: free space is below the reserve. Updates that carry
	// entries are refused and change nothing; the log accepts them again as
	// soon as there is room.
	ErrDiskFull = errors.New("wal: disk full")
	// ErrFailed is for good: a write or a sync failed, so what is on disk is
	// unknown. It wraps the cause. The log answers reads, and nothing else.
	ErrFailed = errors.New("wal: log has failed, and takes no writes until the process is restarted")
	// ErrClosed says that Close was called.
	ErrClosed = errors.New("wal: log is closed")
	// ErrInvalid says that an update contradicts the group's log: a gap, an
	// overwrite of committed entries, a commit beyond the end, a term that
	// goes back. It is refused whole.
	ErrInvalid = errors.New("wal: invalid update")
	// ErrTooLarge says that one update does not fit into a frame.
	ErrTooLarge = errors.New("wal: update too large")
	// ErrNoNumbers says that NewGroup has used up the group numbers that are
	// durably reserved; the next flush reserves more.
	ErrNoNumbers = errors.New("wal: no reserved group number left")
)

// Errors of reading.
var (
	// ErrCompacted says that the entries asked for were compacted away.
	ErrCompacted = errors.New("wal: entries are compacted")
	// ErrUnavailable says that the entries asked for lie beyond the end.
	ErrUnavailable = errors.New("wal: entries are not there yet")
	// ErrUnknownGroup says that no group has this number, or no longer.
	ErrUnknownGroup = errors.New("wal: unknown group")
	// ErrSuspect says that the group was set aside at recovery; see Suspects.
	ErrSuspect = errors.New("wal: group cannot be proven current")
	// ErrDamage says that what was durable is not readable any more. The
	// error that satisfies it is a *DamageError.
	ErrDamage = errors.New("wal: damaged data")
)

// DamageError names the place of data that was durable and cannot be read back.
type DamageError struct {
	Group  uint64 // 0: not known
	Index  uint64 // of an entry; 0: not an entry, or not known
	File   string // base name of the segment, or the name of the cold store
	Offset int64  // in File; -1: does not apply
	Reason string
	Err    error // the cause, if the file system or the cold store gave one
}

// Error names file, offset, group, index and reason.
func (e *DamageError) Error() string {
	s := "wal: damaged data in " + e.File
	if e.Offset >= 0 {
		s += fmt.Sprintf(" at offset %d", e.Offset)
	}
	if e.Group != 0 {
		s += fmt.Sprintf(", group %d", e.Group)
	}
	if e.Index != 0 {
		s += fmt.Sprintf(", index %d", e.Index)
	}
	s += ": " + e.Reason
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is reports whether target is ErrDamage.
func (e *DamageError) Is(target error) bool { return target == ErrDamage }

// Unwrap returns the cause.
func (e *DamageError) Unwrap() error { return e.Err }

// groupError wraps a sentinel with the group and what was asked for.
func groupError(sentinel error, group uint64, format string, args ...any) error {
	return fmt.Errorf("%w: group %d: %s", sentinel, group, fmt.Sprintf(format, args...))
}
