//go:build darwin || freebsd

package vfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncData is a full sync: on macOS os.File.Sync asks for F_FULLFSYNC, and
// nothing less reaches the platter there.
func syncData(f *os.File) error { return f.Sync() }

func preallocate(f *os.File, n int64) (unwritten bool, err error) {
	return false, preallocateZeros(f, n)
}

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Statfs(dir, &st) }); err != nil {
		return 0, err
	}
	if int64(st.Bavail) < 0 { // FreeBSD counts below zero inside root's reserve
		return 0, nil
	}
	return uint64(st.Bavail) * uint64(st.Bsize), nil
}
