package vfs

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

var _ writeBacker = (*osFile)(nil)

func (f *osFile) startWriteBack(off, n int64) (done bool, err error) {
	return f.syncRange(off, n, unix.SYNC_FILE_RANGE_WRITE)
}

func (f *osFile) awaitWriteBack(off, n int64) (done bool, err error) {
	return f.syncRange(off, n, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
}

func (f *osFile) syncRange(off, n int64, flags int) (done bool, err error) {
	err = withFD(f.File, func(fd int) error { return unix.SyncFileRange(fd, off, n, flags) })
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ESPIPE) || errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return true, wrapOS(&fs.PathError{Op: "sync_file_range", Path: f.Name(), Err: err})
	}
	return true, nil
}
