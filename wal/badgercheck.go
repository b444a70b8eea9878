package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

// contained runs a call of Badger and makes an error of a panic in it, and of a page
// that its memory maps do not get from the disk. Badger believes what it reads there.
// What panics in its own goroutines nobody can contain: see checkBadger.
func contained(doing string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("badger: %s: panic: %v", doing, r)
		}
	}()
	return f()
}

var errTable = errors.New("badger: table is cut off or damaged")

// checkBadger reads what Badger reads in goroutines of its own while it opens a
// database: a table that was cut off, or whose last bytes have rotten, would be the
// end of the process. A directory without a database is fine.
func checkBadger(dir string) error {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	manifest, _, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("badger: manifest: %w", err)
	}
	for id := range manifest.Tables {
		if err := checkTable(table.NewFilename(id, dir)); err != nil {
			return err
		}
	}
	return nil
}

// checkTable verifies a table's index and its last block. A table ends with its
// index, the index's length (4 bytes, big endian like all of them), a checksum and
// that one's length; a block with its checksum and that one's length.
func checkTable(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	b := tableEnd{f: f, end: st.Size(), name: name}
	sum := b.checksum()
	index := b.take(b.length())
	if b.verify(index, sum); b.err != nil {
		return b.err
	}
	offsets := fb.GetRootAsTableIndex(index, 0)
	var last fb.BlockOffset
	if n := offsets.OffsetsLength(); n == 0 || !offsets.Offsets(&last, n-1) {
		return fmt.Errorf("%w: %s: no blocks", errTable, name)
	}
	b.end = int64(last.Offset()) + int64(last.Len())
	start := int64(last.Offset())
	sum = b.checksum()
	b.verify(b.take(b.end-start), sum)
	return b.err
}

// tableEnd reads a table backwards, from end.
type tableEnd struct {
	f    *os.File
	name string
	end  int64
	err  error // of whatever came first
}

func (b *tableEnd) fail(format string, args ...any) {
	if b.err == nil {
		b.err = fmt.Errorf("%w: %s: %s", errTable, b.name, fmt.Sprintf(format, args...))
	}
}

// take returns the last n bytes before end.
func (b *tableEnd) take(n int64) []byte {
	if n < 0 || n > b.end {
		b.fail("%d bytes before offset %d", n, b.end)
	}
	if b.err != nil {
		return nil
	}
	p := make([]byte, n)
	if _, err := b.f.ReadAt(p, b.end-n); err != nil {
		b.err = err
		return nil
	}
	b.end -= n
	return p
}

func (b *tableEnd) length() int64 {
	if p := b.take(4); p != nil {
		return int64(binary.BigEndian.Uint32(p))
	}
	return 0
}

func (b *tableEnd) checksum() *pb.Checksum {
	sum := new(pb.Checksum)
	if err := proto.Unmarshal(b.take(b.length()), sum); err != nil {
		b.fail("checksum: %v", err)
	}
	return sum
}

func (b *tableEnd) verify(data []byte, sum *pb.Checksum) {
	if b.err != nil {
		return
	}
	if err := y.VerifyChecksum(data, sum); err != nil {
		b.fail("%v", err)
	}
}
