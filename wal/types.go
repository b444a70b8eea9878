package wal

import (
	"io"
	"log/slog"

	"github.com/copycat-replication/copycat/internal/vfs"
	"go.etcd.io/raft/v3/raftpb"
)

// Options of Open. Zero values mean the defaults; FS and Dir must be given.
type Options struct {
	FS  vfs.FS
	Dir string
	// SegmentSize is the size of a segment in bytes, preallocated. Default 64 MiB.
	SegmentSize int64
	// CacheBytes bounds the cache of recent entries, over all groups. Default 32 MiB.
	CacheBytes int64
	// GroupQuota is how many bytes one group may have in a batch while others
	// wait (one update always fits). Default 400 KiB.
	GroupQuota int64
	// ReserveBytes is the free space below which entries are refused
	// (ErrDiskFull). It must hold the segments that votes, commits and
	// compactions still need to get the node out of it. Default three segments.
	ReserveBytes uint64
	// HotBytes is how much the segments may hold before live entries of the
	// oldest one move to the cold store (if they are few, they move to the newest segment,
	// and do not wait for that). Default sixteen segments: with eight,
	// proposals of 1 KiB at 250 MB/s were moved that a snapshot was about to
	// free, which cost a third of the throughput.
	HotBytes int64
	// Cold keeps what moves out of the segments. It stays the caller's to
	// close. Nil: Badger in Dir/cold on the operating system's file system,
	// opened when it is first needed, whatever FS is.
	Cold ColdStore
	// Entropy gives the log its identity, once. Nil: crypto/rand.
	Entropy io.Reader
	Logger  *slog.Logger
}

// Mark is a place in a group's log.
type Mark struct{ Index, Term uint64 }

// Update is one group's change: durable in one frame, or not at all. What it
// names is done in this order: Compact, Entries, HardState, Meta.
type Update struct {
	Group uint64
	// Entries are appended. They are contiguous; whatever is stored at or
	// beyond Entries[0].Index is overwritten, except that committed entries
	// cannot be, and that there can be no gap.
	Entries []*raftpb.Entry
	// HardState replaces the stored one whole; nil: unchanged. Term and Commit
	// never go back, and Commit is not beyond the last index.
	HardState *raftpb.HardState
	// Meta replaces the stored one; nil: unchanged. Opaque to the log.
	Meta []byte
	// Compact says that entries up to Index are not needed any more;
	// Term(Index) keeps answering Mark.Term. Beyond the last index, or with
	// another term than the entry there: the log restarts empty after the mark.
	// At or below an earlier mark: nothing changes.
	Compact *Mark
	// Remove forgets the group; its number is never used again. The other
	// fields are ignored.
	Remove bool
}

// GroupState is what a group's owner needs to start.
type GroupState struct {
	Group     uint64
	HardState *raftpb.HardState // nil: never stored. The caller's own copy
	Meta      []byte            // nil: never stored. Shared: not to be changed
	Compacted Mark              // zero: nothing was compacted
	LastIndex uint64            // Compacted.Index if there are no entries
}

// Suspect is a group that was set aside at recovery, because it cannot be
// proven current: frames of it are lost, or may be. It must not vote or
// serve; every call for it but Submit of a Remove answers ErrSuspect. Nothing
// of it is deleted until then.
type Suspect struct {
	Group  uint64
	Why    string
	File   string // base name of a segment; "" if not known any more
	Offset int64  // in File; -1: not known
	// Meta and HardState are the newest ones found, nil if none. They may be
	// older than what was once acknowledged.
	Meta      []byte
	HardState *raftpb.HardState
}

// Stats is a snapshot of the log's counters.
type Stats struct {
	Groups        int
	Suspects      int
	Segments      int
	SegmentBytes  int64 // what the segments hold, without what is preallocated
	CacheBytes    int64
	QueuedUpdates int
	QueuedBytes   int64
	ColdEntries   uint64
	ColdBytes     uint64
	ColdFailed    bool // a write to the cold store failed: nothing more moves to it in this life

	Batches      uint64 // written since Open, seals included
	Frames       uint64
	BytesWritten uint64
	Refused      uint64 // updates refused for lack of space
	CacheHits    uint64 // entries read from memory
	DiskReads    uint64 // entries read from segments
	ColdReads    uint64 // entries read from the cold store
	ColdMoved    uint64 // entries moved to the cold store
	Carried      uint64 // entries and states carried to a newer segment
	SegmentsMade uint64
	// SegmentsReused are those of SegmentsMade whose files were of freed ones.
	SegmentsReused uint64
	SegmentsFreed  uint64
	Lost           uint64 // entries that were not readable when their segment was freed
}

const (
	defaultSegmentSize = 64 << 20
	minSegmentSize     = 4 << 10
	defaultCacheBytes  = 32 << 20
	// Two of raftgroup's full batches: enough for the sync to be a small part of
	// what a batch costs, and little enough for a group that has one entry to
	// write beside one that is flooded.
	defaultGroupQuota = 400 << 10
	maxBatchBytes     = 16 << 20
	ceilingStep       = 1 << 16
)

func (o Options) withDefaults() Options {
	if o.SegmentSize <= 0 {
		o.SegmentSize = defaultSegmentSize
	}
	o.SegmentSize = min(max(o.SegmentSize, minSegmentSize), maxSegmentSize/2)
	if o.CacheBytes <= 0 {
		o.CacheBytes = defaultCacheBytes
	}
	if o.GroupQuota <= 0 {
		o.GroupQuota = defaultGroupQuota
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 3 * uint64(o.SegmentSize)
	}
	if o.HotBytes <= 0 {
		o.HotBytes = 16 * o.SegmentSize
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// batchLimit is how many bytes of updates one batch takes: at most a quarter of a
// segment, so that rolling wastes little.
func (o *Options) batchLimit() int {
	return int(min(o.SegmentSize/4, maxBatchBytes))
}
