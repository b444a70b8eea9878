package history

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Fold is what a state came from: the IDs in their order, and a digest that
// chains them. Neither is changed once it is made; folds are shared.
type Fold struct {
	IDs    []ID
	Digest uint64
}

// NewFold makes the fold of a list, which it keeps.
func NewFold(ids []ID) *Fold {
	f := &Fold{IDs: ids}
	for _, id := range ids {
		f.Digest = chain(f.Digest, id)
	}
	return f
}

func chain(digest uint64, id ID) uint64 {
	var b [24]byte
	binary.LittleEndian.PutUint64(b[:], digest)
	binary.LittleEndian.PutUint64(b[8:], uint64(id.Writer))
	binary.LittleEndian.PutUint64(b[16:], id.Seq)
	return xxhash.Sum64(b[:])
}

// State is the data structure of the workload: the list of everything that was
// applied, and a register map. Not safe for concurrent use.
type State struct {
	ids     []ID // append-only until a Load replaces it, so that folds may share it
	digest  uint64
	keys    map[uint32]ID
	padding int
}

// Apply applies one payload.
func (s *State) Apply(p Payload) {
	s.push(p.ID)
	if p.Op == OpPut {
		if s.keys == nil {
			s.keys = make(map[uint32]ID)
		}
		s.keys[p.Key] = p.ID
	}
}

func (s *State) push(id ID) {
	s.ids = append(s.ids, id)
	s.digest = chain(s.digest, id)
}

// Get returns what was put last under a key: the zero ID if nothing was.
func (s *State) Get(key uint32) ID { return s.keys[key] }

// Len returns how many items were applied, the base's included.
func (s *State) Len() int { return len(s.ids) }

// Fold returns what the state came from, without copying it.
func (s *State) Fold() *Fold { return &Fold{IDs: s.ids[:len(s.ids):len(s.ids)], Digest: s.digest} }

// The format of a snapshot: "CHST", version 1; the list in runs (writer,
// first sequence, length), preceded by their number; the map's entries (key,
// writer, sequence) by key, preceded by their number; the length of the
// padding, and the padding; all integers are uvarints. Then, 8 bytes each and
// little endian, the digest and xxhash64 of all before. The empty state is no
// bytes at all: as a base it gives nobody anything to load.
const (
	snapshotMagic   = "CHST"
	snapshotVersion = 1
)

// Snapshot serializes the state.
func (s *State) Snapshot() []byte {
	if len(s.ids) == 0 {
		return []byte{}
	}
	b := append([]byte(snapshotMagic), snapshotVersion)
	rs := runs(s.ids)
	b = binary.AppendUvarint(b, uint64(len(rs)))
	for _, r := range rs {
		b = binary.AppendUvarint(b, uint64(r.first.Writer))
		b = binary.AppendUvarint(b, r.first.Seq)
		b = binary.AppendUvarint(b, r.n)
	}
	b = binary.AppendUvarint(b, uint64(len(s.keys)))
	for _, k := range slices.Sorted(maps.Keys(s.keys)) {
		b = binary.AppendUvarint(b, uint64(k))
		b = binary.AppendUvarint(b, uint64(s.keys[k].Writer))
		b = binary.AppendUvarint(b, s.keys[k].Seq)
	}
	b = binary.AppendUvarint(b, uint64(s.padding))
	x := s.digest | 1
	for range s.padding {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b = append(b, byte(x>>32))
	}
	b = binary.LittleEndian.AppendUint64(b, s.digest)
	return binary.LittleEndian.AppendUint64(b, xxhash.Sum64(b))
}

// Load replaces the state by a snapshot's. On an error, ErrMalformed, the
// state is what it was.
func (s *State) Load(b []byte) error {
	if len(b) == 0 {
		*s = State{padding: s.padding}
		return nil
	}
	bad := func(what string) error {
		return fmt.Errorf("%w: snapshot of %d bytes (%x…): %s", ErrMalformed, len(b), b[:min(len(b), 16)], what)
	}
	if len(b) < len(snapshotMagic)+17 || string(b[:len(snapshotMagic)]) != snapshotMagic {
		return bad("not of this workload")
	}
	if b[len(snapshotMagic)] != snapshotVersion {
		return bad("version")
	}
	if binary.LittleEndian.Uint64(b[len(b)-8:]) != xxhash.Sum64(b[:len(b)-8]) {
		return bad("checksum")
	}
	d := &decoder{b: b[len(snapshotMagic)+1 : len(b)-16]}
	n := State{keys: make(map[uint32]ID), padding: s.padding}
	for range d.count(3) {
		first, count := d.id(), d.uvarint()
		if count > maxSnapshotIDs-uint64(len(n.ids)) {
			return bad("too many items")
		}
		for i := range count {
			n.push(ID{first.Writer, first.Seq + i})
		}
	}
	for range d.count(3) {
		key := d.uvarint()
		if key > 1<<32-1 {
			return bad("key")
		}
		n.keys[uint32(key)] = d.id()
	}
	if padding := d.uvarint(); d.failed || padding != uint64(len(d.b)) {
		return bad("content")
	}
	if n.digest != binary.LittleEndian.Uint64(b[len(b)-16:]) {
		return bad("digest")
	}
	*s = n
	return nil
}

// maxSnapshotIDs bounds what a few hostile bytes can make Load allocate.
const maxSnapshotIDs = 1 << 24

// run is a stretch of a list: first, and its writer's next ones.
type run struct {
	first ID
	n     uint64
}

func runs(ids []ID) []run {
	var rs []run
	for _, id := range ids {
		if k := len(rs) - 1; k >= 0 && rs[k].first.Writer == id.Writer && rs[k].first.Seq+rs[k].n == id.Seq {
			rs[k].n++
			continue
		}
		rs = append(rs, run{first: id, n: 1})
	}
	return rs
}

// decoder takes uvarints off a slice; once one is cut, all that follow are zero.
type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || d.failed {
		d.failed = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads how many items follow, each of at least size bytes.
func (d *decoder) count(size int) uint64 {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.failed = true
		return 0
	}
	return n
}

func (d *decoder) id() ID { return ID{Writer(d.uvarint()), d.uvarint()} }
