package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// withFD runs a system call on f's descriptor, which cannot be closed and used
// again for another file meanwhile.
func withFD(f *os.File, call func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	if err := rc.Control(func(fd uintptr) {
		callErr = ignoringEINTR(func() error { return call(int(fd)) })
	}); err != nil {
		return err
	}
	return callErr
}

func syncData(f *os.File) error { return withFD(f, unix.Fdatasync) }

// preallocate reports whether the file system has marked the blocks as not
// written, and writes to them more cheaply once they are (see ahead).
func preallocate(f *os.File, n int64) (unwritten bool, err error) {
	err = withFD(f, func(fd int) error { return unix.Fallocate(fd, 0, 0, n) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return false, preallocateZeros(f, n) // some network and overlay file systems
	}
	if err != nil {
		return false, err
	}
	var st unix.Statfs_t
	if err := withFD(f, func(fd int) error { return unix.Fstatfs(fd, &st) }); err != nil {
		return false, err
	}
	return hasJournal(&st), nil
}

// hasJournal reports whether the file system is one that writes data to the place where
// they were, and what it knows of them to a journal. Others write to new places each
// time, or have no journal.
func hasJournal(st *unix.Statfs_t) bool {
	return st.Type == unix.EXT4_SUPER_MAGIC || st.Type == unix.XFS_SUPER_MAGIC
}

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Statfs(dir, &st) }); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}
