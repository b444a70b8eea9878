// Package wal is the durable log store of a node: one for all raft groups
// that have a replica there. It keeps, for each group, its entries, its hard
// state, an opaque piece of metadata and the mark up to which the log was
// compacted, and it promises that what it has acknowledged comes back, or is
// missed loudly.
//
// # How the parts fit
//
// Submit queues updates. Flush, the synchronous core, takes one batch from
// the queue (groups take turns, each with a byte quota), judges every update
// against its group, writes the batch with one write, syncs it once, makes it
// visible, and answers. Start runs Flush in a goroutine, the committer; a
// simulation calls it itself. Nothing is visible before it is durable.
//
// The hot tier is a row of segments: preallocated, append-only files. An index
// in memory finds the record of each entry; the newest entries of all groups
// are cached, bounded in bytes. The files of segments that were freed are used
// again, since blocks that were written before are synced faster (spare).
//
// The cold tier is a ColdStore, Badger by default. Before the oldest segment
// is removed, Reclaim moves what is still needed: committed entries to the
// cold store, if they are many; hard states, metadata, marks, manifests, uncommitted entries,
// and the few committed ones of quiet groups, into the newest segment. Uncommitted
// entries never go cold, since they may still be overwritten. Most entries are compacted
// away before any of this.
//
// # Files
//
//	FORMAT                 format version, identity of the log (random)
//	LOCK                   held by the process that has the directory open
//	0000000000000001.seg   segments, by number
//	*.seg.damaged          segments with damage whose turn to go has come
//	*.tmp                  half made, or of a freed segment; removed by the next Open
//	cold/                  Badger
//	cold.damaged.*         what did not open; nothing reads it
//
// FORMAT and segments appear under a temporary name, are synced, renamed, and
// the directory is synced: a broken one is damage, never the trace of a crash.
// All integers are little endian; "uvarint" is encoding/binary's.
//
// FORMAT: magic "CCWALFMT", major version 4, minor version 4, identity 8,
// CRC-32C 4. The checksum is last in every version, and is checked first, so
// that damage does not pass for a newer version.
//
// A segment begins with its head:
//
//	magic "CCWALSEG" | major 2 | minor 2 | length 4 | identity 8 | number 8
//	end of the previous segment 8 | last batch number before this segment 8
//	group number ceiling 8 | chain at the previous end 4 | groups in the table 4
//	table: for each group, uvarint(number − previous number), uvarint(frames written ×2 + suspect)
//	CRC-32C 4
//
// Batches follow, each starting at a multiple of 8 and filled up with zeros (the
// last one, for now, to a multiple of 4096 in the file: see padded):
//
//	magic 4 | checksum of this header 4 | batch number 8 | durable mark 8
//	length of the frames 4 | chain before the batch 4 | frames 4 | flags 4 (1: seal)
//
// Batches are numbered 1, 2, 3, … over all segments. The durable mark is up to
// where the segment was durable when the batch was written; with one write in
// flight that is where the batch begins. The header's checksum is seeded with
// identity, segment number and offset, and does not depend on what is before. So what
// an earlier segment left in the same file is not a batch of this one.
//
// A batch holds frames:
//
//	checksum of this header 4 | chained checksum 4 | payload length 4
//	type 1 | 0 1 | flags 2 | group 8 | frame counter of the group 8 | payload
//
// The chained checksum covers header and payload and starts from that of the
// frame before (of the batch header for the first), so that nothing can be
// left out or swapped. The header's own checksum covers the chained one: a
// broken payload still tells whose frame it was and where the next begins.
//
// Payloads. An update frame holds, as its flags say: compaction mark (index,
// term), hard state (term, vote, commit), metadata (length, bytes), entries
// (first index, count, records), numbers as uvarints. A state frame holds all
// that is known of a group but the entries: mark, last index, hard state,
// metadata, why it is a suspect, the manifest (for each chunk: first, last,
// checksum chain 4, bytes, term runs), and runs of entries that it moves here
// from an older segment. A ceiling frame holds the number below which group
// numbers may have been given out. A table frame, in some seals, holds what
// the table in a head holds.
//
// A record is one entry: CRC-32C 4 | length 4 | type 1 | term uvarint | data.
// Group and index are in the checksum's seed. The cold store gets the same
// records, under (group, index).
//
// # Recovery, and telling damage from a tear
//
// After a crash, any subset of the pages of an unsynced write may be there. The page
// in which the batch before it ended is one of them: what was durable there is written
// again, with the same bytes, so that both the old page and the new one have it.
// But only one batch was ever in flight, and whoever finds a batch knows from
// its durable mark that all before it was durable. So:
//
//   - In every segment but the last, the next one's head says where it ends:
//     whatever is invalid below that is damage, whatever is behind it was dropped.
//   - In the last segment, what is invalid and has no valid batch behind it is
//     a torn tail that nobody was told about, and is dropped as a whole batch.
//     With a batch behind it, it is damage.
//   - Damage in the very last batch cannot be told from a tear. Therefore the
//     log seals: it writes an empty batch when it is idle, at Close, and before
//     it removes a segment.
//
// What was accepted from the tail may have been in the page cache only, so it
// is written again and synced before anything relies on it, and a fresh
// segment is started, whose head puts on record where the old one ends.
//
// Damage does not fail Open, and nothing is cut or deleted for it. Recovery goes on at
// the next readable frame, or batch, or segment, and decides for each group
// whether it is proven current. A broken payload concerns one group. Where it
// is not known whose frames are gone, the frame counters decide: a group whose
// next frame, or whose line in a later table (in a segment's head, or in a
// seal), continues the count has lost nothing. Every other group is set aside: it is a
// Suspect, answers ErrSuspect, keeps its metadata for the host's report, and
// waits to be removed once its replacement is there. Damages lists the places.
// Freed segments with damage are renamed, not removed.
//
// A group is complete if its first frame, or a state frame, is in the segments
// that are left. Reclaim sees to it (base); recovery checks it. That is also
// why no record is needed of which segments were removed: if one too many is
// gone, groups are listed in the oldest head whose state is nowhere.
//
// # Failures
//
// A failed write or sync is final (ErrFailed): what is on disk is unknown then,
// and trying the sync again would lie. Running out of space is not: below the
// reserve, entries are refused with ErrDiskFull while hard states, compactions
// and removals still go, and nothing is written to the cold store, since a
// full disk under Badger's memory maps kills the process.
//
// The manifest alone says what the cold store must hold. A record that it
// names and the store does not have, or has with a wrong checksum, is a
// *DamageError that names group and index. A write to the cold store that
// failed ends its use for this life: segments are kept instead. A store that does not
// open, on a disk that can be written, is set aside for an empty one. Panics of Badger,
// and pages that its memory maps do not get, are errors, as far as they meet in our
// goroutines; what it reads in its own while it opens is verified before. In what its
// compactions read, rot in a block's structure (not in an entry) still ends the process.
//
// A record that has rotten in a segment must not keep that one, and all behind it,
// from being freed: a lost record moves in its place, which has its term and a wrong
// checksum, and is damage for whoever reads it, as before. What the disk refuses to read
// is taken for lost only when the segments hold too much, or space is low, and after three attempts.
//
// # Rejected
//
//   - Badger, or any LSM tree, as the log itself: measured, several times
//     slower for many small groups, and in Badger's case a flipped bit loses
//     acknowledged keys without an error.
//   - A log per group: 1,000 groups with one entry each would pay 1,000 syncs.
//   - Checksums of fixed blocks (LevelDB style): a large entry is cut in pieces,
//     and one bit in a block's header takes all groups in it.
//   - One chain of checksums without counters: it proves that something is
//     missing, not to whom.
//   - Carrying all committed entries forward instead of a cold store: a lagging
//     group would be copied again and again. Only the few in a segment of which
//     a sixteenth is needed are, so what is copied is little beside what it frees.
package wal
