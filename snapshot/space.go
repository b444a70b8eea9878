package snapshot

import (
	"fmt"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// spaceEvery is how many bytes of a file are written between two looks at the free
// space.
const spaceEvery = 1 << 20

// room checks that n more bytes of a file that has, or will have, size bytes leave
// what must be left. A quarter more than the reserve is kept by large files: the log
// store, which is out of room below the reserve, must not be driven in and out of it.
func (s *Store) room(size, n int64) error {
	if s.reserve == 0 {
		return nil
	}
	keep := s.reserve + s.reserve/4
	if uint64(size) <= s.reserve/4 {
		keep = s.reserve / 2
	}
	need := keep + uint64(n)
	free, err := s.fs.Free(s.dir)
	if err == nil && free < need && s.yield != nil && s.yield() {
		free, err = s.fs.Free(s.dir)
	}
	if err != nil {
		return nil // the disk says by itself when it is full
	}
	if free < need {
		return fmt.Errorf("%w: %d bytes are free, %d are needed with what is kept in reserve", vfs.ErrNoSpace, free, need)
	}
	return nil
}
