package vfs

// StartWriteBack tells the system to write bytes of a file to the disk, and
// does not wait for that. Where the system has nothing like it, nothing happens.
func StartWriteBack(f File, off, n int64) error {
	if w, ok := f.(writeBacker); ok {
		_, err := w.startWriteBack(off, n)
		return err
	}
	return nil
}

// AwaitWriteBack waits until bytes that StartWriteBack was called for have left
// for the disk. It makes nothing durable: that takes a sync still, which then
// finds little to do. Nor does it commit a file system's journal, for which the
// syncs of other files would have to wait. Where the system has nothing like it,
// the file is synced. An error is one of a sync: what is on the disk is not
// known any more.
func AwaitWriteBack(f File, off, n int64) error {
	if w, ok := f.(writeBacker); ok {
		if done, err := w.awaitWriteBack(off, n); done || err != nil {
			return err
		}
	}
	return f.SyncData()
}

// writeBacker is a file of a system that has this; done is false if not for
// this file.
type writeBacker interface {
	startWriteBack(off, n int64) (done bool, err error)
	awaitWriteBack(off, n int64) (done bool, err error)
}
