// Package snapshot keeps the snapshot files of a node: one directory, a
// subdirectory for each raft group.
//
// # What is promised
//
// A file that has its final name is complete: it was written to a temporary
// name, synced, renamed, and its directory synced before Commit returns. A
// file is never changed after that. What is read is checked: no byte reaches a
// reader before the CRC-32C of its chunk was right, and a reader sees io.EOF
// only after the checksum over the whole file was right too. A damaged length
// never becomes an allocation larger than a chunk or than what the file really
// holds. A full disk is vfs.ErrNoSpace and leaves nothing behind under a final
// name; files stop short of the space that the log store keeps in reserve.
//
// What is not promised: that a file is wanted. The commit point of a snapshot
// is a frame in the log store that names its Ref; a file that no frame names
// is an extra, which Retain removes. And a file may rot after it was written:
// then Open, Verify or the read gives a *DamageError, the caller sets the file
// aside (SetAside) and fetches it again from another replica.
//
// # Identity
//
// A Ref names a snapshot: its place in the log (index, term, number of
// commits), the session that made it, and size and SHA-256 of the file. The
// SHA-256 covers everything but the trailer, and the trailer holds nothing that
// does not follow from the rest, so two files with equal Refs are equal byte
// for byte. That is why a transfer that was cut resumes by offset, from any
// holder.
//
// # The file, version 1.0
//
// Integers are little-endian. CRCs are CRC-32C (Castagnoli).
//
//	header   8  magic "\x89CCSNAP\n"
//	         2  major version; a reader refuses a newer one (ErrNewerFormat)
//	         2  minor version
//	         4  length of the head
//	         4  CRC of the 16 bytes before
//	head    16  data structure
//	         8  incarnation: birth
//	         4  incarnation: recovery
//	         8  raft index
//	         8  raft term
//	         8  N, the number of commits
//	         8  the leader's clock
//	         8  session that made it
//	         4  length of the state
//	         …  the state: membership, sessions, options as of N; opaque here
//	         …  fields of later minor versions, which an older reader skips
//	         4  CRC of the head, started from the header's CRC
//	chunks   4  length, 1 to 256 KiB
//	(0 or    4  CRC of the chunk's number (8 bytes, from 0), its length and its
//	 more)      bytes, started from the head's CRC
//	         …  the user's bytes
//	trailer  8  magic "\x89CCSEND\n"
//	         8  number of chunks
//	         8  user's bytes
//	         8  size of the whole file
//	        32  SHA-256 of everything before the trailer
//	         4  CRC of the 64 bytes before
//
// Each CRC starts from the one before it in the hierarchy, so that a chunk of
// another file, or the right chunk in the wrong place, does not pass. The
// header's first 20 bytes stay as they are in every later version: without
// them a reader could not tell a newer version from damage.
//
// # Names
//
//	<group, 16 hex>/<N, 16 hex>-<index, 16 hex>-<SHA-256, 64 hex>.snap   complete
//	<group>/<the same>.part     being received, or waiting for the transfer to go on
//	<group>/make-<number>.tmp   being written
//	<group>/<number>-<name>.bad set aside
//
// # Rejected
//
// The size and checksum in the header, to be filled in at the end: a second
// write to the first page, which may land without the rest. A chunk index for
// random access: nobody reads at random, and a resume needs only an offset.
// Compression: the user's bytes are the user's, and WAN links compress frames
// already. Protobuf for the head: a fixed layout can be checked for size
// before anything is allocated. Keeping partial files without checking them on
// resume: after a crash the file may have its size and not its bytes, and one
// would learn of it only after fetching the rest; so a resume reads what is
// there and goes on from the last chunk that is right.
package snapshot
