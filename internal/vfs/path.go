package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
)

// MkdirAllSync makes dir and its missing parents, and makes them survive a
// crash: the parent of every directory that it made is synced, and the parent
// of dir in any case, since an earlier process may have made dir and died
// before it synced.
func MkdirAllSync(fsys FS, dir string) error {
	dir = path.Clean(dir)
	toSync := []string{path.Dir(dir)}
	for p := path.Dir(dir); p != path.Dir(p); p = path.Dir(p) {
		ok, err := fsys.Exists(p)
		if err != nil {
			return err
		}
		if ok {
			break
		}
		toSync = append(toSync, path.Dir(p))
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	for i := len(toSync) - 1; i >= 0; i-- {
		if err := fsys.SyncDir(toSync[i]); err != nil {
			return err
		}
	}
	return nil
}

// ReadFile returns the whole file, which must not be longer than limit: a
// damaged size must not become an allocation.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err == nil && size > limit {
		err = &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("%d bytes, more than the limit of %d", size, limit)}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	buf := make([]byte, size)
	n, err := f.ReadAt(buf, 0)
	if err == io.EOF && int64(n) == size {
		err = nil
	}
	return buf[:n], errors.Join(err, f.Close())
}
