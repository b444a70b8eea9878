//go:build !linux && !darwin && !freebsd && !windows

package vfs

import (
	"errors"
	"os"
	"syscall"
)

func isNoSpace(err error) bool { return errors.Is(err, syscall.ENOSPC) }

func syncData(f *os.File) error { return f.Sync() }

func preallocate(f *os.File, n int64) (unwritten bool, err error) {
	return false, preallocateZeros(f, n)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockFile refuses: a data directory that two processes may share is not safe,
// and this system has no lock that we know to end with its process.
func lockFile(*os.File) error { return errors.ErrUnsupported }

func freeBytes(string) (uint64, error) { return 0, errors.ErrUnsupported }

func unlockFile(*os.File) error { return nil }
