package snapshot

import "github.com/copycat-replication/copycat/internal/vfs"

// writeBackPiece is how much a snapshot has the disk write at a time. Twice as
// much at most waits in the page cache: a sync of a huge file at its end would
// keep the disk from the log store for seconds, and each piece keeps it for a
// millisecond or so.
const writeBackPiece = 1 << 20

// writeBack has a file that grows written to the disk, one piece while the next
// one is made.
type writeBack struct {
	awaited, started int64 // up to where
}

// grown is called when the file has been written up to end. An error is one of
// a sync.
func (w *writeBack) grown(f vfs.File, end int64) error {
	if end-w.started < writeBackPiece {
		return nil
	}
	if err := vfs.StartWriteBack(f, w.started, end-w.started); err != nil {
		return err
	}
	from, to := w.awaited, w.started
	w.awaited, w.started = w.started, end
	if from == to {
		return nil
	}
	return vfs.AwaitWriteBack(f, from, to-from)
}
