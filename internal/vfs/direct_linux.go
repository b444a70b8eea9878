package vfs

import (
	"os"

	"golang.org/x/sys/unix"
)

var _ directWriter = (*osFile)(nil)

// writeDirectly implements directWriter.
func (f *osFile) writeDirectly() {
	var st unix.Statfs_t
	err := withFD(f.File, func(fd int) error { return unix.Fstatfs(fd, &st) })
	if err != nil || !hasJournal(&st) || f.direct != nil {
		return // others write to new places each time, or keep everything in memory
	}
	file, err := os.OpenFile(f.Name(), os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return // it is as good as the page cache, but for speed
	}
	f.direct = &direct{plain: plain{f.File, &f.written}, file: file, last: -1}
}

// endDirectWrites implements directWriter.
func (f *osFile) endDirectWrites() error {
	d := f.direct
	if d == nil {
		return nil
	}
	f.direct = nil
	return wrapOS(d.file.Close())
}
