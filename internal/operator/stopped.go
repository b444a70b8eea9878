package operator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"

	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/wal"
)

// lockFile is held by the process that uses a data directory.
const lockFile = "LOCK"

// stopped is the directory of a node that does not run, with its lock held, its
// log open, and a file beside it that records what is done here, a line of JSON
// for each thing.
type stopped struct {
	dir    string
	lock   io.Closer
	log    *wal.Log
	record *os.File
}

// openStopped opens a directory: vfs.ErrLocked if a node runs on it.
func openStopped(dir, recordFile string) (_ *stopped, err error) {
	fsys, s := vfs.OS{}, &stopped{dir: dir}
	if s.lock, err = lock(dir); err != nil {
		return nil, err
	}
	if s.log, err = wal.Open(wal.Options{FS: fsys, Dir: path.Join(dir, "wal"), Logger: slog.New(slog.DiscardHandler)}); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.log.Start()
	if s.record, err = os.OpenFile(path.Join(dir, recordFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func lock(dir string) (io.Closer, error) {
	l, err := vfs.OS{}.Lock(path.Join(dir, lockFile))
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("%s: a node runs on it, stop it first: %w", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return l, nil
}

// CheckStopped says before anybody is asked to confirm anything whether a node
// runs on a directory (vfs.ErrLocked). Nothing is changed.
func CheckStopped(dir string) error {
	if _, err := os.Stat(path.Join(dir, lockFile)); errors.Is(err, fs.ErrNotExist) {
		return nil // nobody has it, and it is not made for this
	}
	l, err := lock(dir)
	if err != nil {
		return err
	}
	return l.Close()
}

// tell adds a line to the record, durably; the record's name is once sync is called.
func (s *stopped) tell(what any) error {
	line, err := json.Marshal(what)
	if err == nil {
		_, err = s.record.Write(append(line, '\n'))
	}
	if err == nil {
		err = s.record.Sync()
	}
	return err
}

// sync makes the record's name durable.
func (s *stopped) sync() error { return vfs.OS{}.SyncDir(s.dir) }

// close lets go of the directory.
func (s *stopped) close() (err error) {
	if s.record != nil {
		err = s.record.Close()
	}
	if s.log != nil {
		err = errors.Join(err, s.log.Close())
	}
	return errors.Join(err, s.lock.Close())
}
