package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

func isNoSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

func syncData(f *os.File) error { return f.Sync() }

func preallocate(f *os.File, n int64) (unwritten bool, err error) {
	return false, preallocateZeros(f, n)
}

// syncDir only checks that dir is there: Windows has no fsync of directories.
func syncDir(dir string) error {
	_, err := os.Stat(dir)
	return err
}

func lockFile(f *os.File) error {
	err := windows.LockFileEx(windows.Handle(f.Fd()),
		windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrLocked
	}
	return err
}

func freeBytes(dir string) (uint64, error) {
	p, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(p, &free, nil, nil); err != nil {
		return 0, err
	}
	return free, nil
}

// unlockFile does nothing: a process that is started has no handle of this one.
func unlockFile(*os.File) error { return nil }
