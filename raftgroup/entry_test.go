package raftgroup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/pb/grouppb"
)

func TestBatchRoundTrip(t *testing.T) {
	t.Parallel()
	seeds(t, 200, func(t *testing.T, rng *rand.Rand) {
		list := make([]item, rng.IntN(20)+1)
		for i := range list {
			list[i] = item{payload: bytes.Repeat([]byte{byte(i)}, rng.IntN(50)), void: rng.IntN(4) == 0}
		}
		session, first, attempt := rng.Uint64(), rng.Uint64N(1<<60)+1, rng.Uint32()
		b, err := decodeBatch(encodeBatch(nil, session, first, attempt, list))
		if err != nil {
			t.Fatal(err)
		}
		if b.session != session || b.first != first || b.attempt != attempt || int(b.count) != len(list) {
			t.Fatalf("header %+v", b)
		}
		body := b.body
		for i, it := range list {
			n := b.length(uint32(i))
			if b.void(uint32(i)) != it.void || (it.void && n != 0) || (!it.void && !bytes.Equal(body[:n], it.payload)) {
				t.Fatalf("item %d: void %v, %d bytes, want %+v", i, b.void(uint32(i)), n, it)
			}
			body = body[n:]
		}
		if len(body) != 0 {
			t.Fatalf("%d bytes left over", len(body))
		}
	})
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	node := nodeN(4)
	data := openRecord(t, 9, node, 5)
	stampClock(data, -3)
	kind, clock, err := entryKind(data)
	if err != nil || kind != KindSessionOpen || clock != -3 {
		t.Fatalf("kind %d, clock %d, %v", kind, clock, err)
	}
	var m grouppb.SessionOpen
	if err := decodeRecord(data, &m); err != nil || m.Incarnation != 5 || !bytes.Equal(m.Node, node[:]) || m.Nonce[0] != 9 {
		t.Fatalf("%+v, %v", m, err)
	}
}

// Whatever is cut off a batch, the rest is not mistaken for one.
func TestTruncatedBatch(t *testing.T) {
	t.Parallel()
	data := encodeBatch(nil, 1, 1, 0, items("one", "", "three"))
	for n := 1; n < len(data); n++ {
		if _, err := decodeBatch(data[:n]); !errors.Is(err, ErrMalformedEntry) {
			t.Fatalf("first %d bytes of %d: %v", n, len(data), err)
		}
	}
	if _, err := decodeBatch(append(bytes.Clone(data), 0)); !errors.Is(err, ErrMalformedEntry) {
		t.Fatalf("one byte too many: %v", err)
	}
}

// A header may claim anything; nothing is allocated on its word.
func TestHostileBatchHeader(t *testing.T) { // not parallel: it counts allocations
	patch := func(f func(data []byte)) []byte {
		data := encodeBatch(nil, 1, 1, 0, items("a", "b"))
		f(data)
		return data
	}
	le := binary.LittleEndian
	for name, data := range map[string][]byte{
		"no numbers":               patch(func(d []byte) { le.PutUint32(d[28:], 0) }),
		"count beyond the entry":   patch(func(d []byte) { le.PutUint32(d[28:], math.MaxUint32) }),
		"count × 4 overflows":      patch(func(d []byte) { le.PutUint32(d[28:], 1<<30) }),
		"one number too many":      patch(func(d []byte) { le.PutUint32(d[28:], 3) }),
		"number 0":                 patch(func(d []byte) { le.PutUint64(d[20:], 0) }),
		"numbers overflow":         patch(func(d []byte) { le.PutUint64(d[20:], math.MaxUint64) }),
		"length beyond the entry":  patch(func(d []byte) { le.PutUint32(d[36:], math.MaxUint32&^voidBit) }),
		"lengths overflow 32 bits": patch(func(d []byte) { le.PutUint32(d[36:], 1<<31-1); le.PutUint32(d[40:], 1<<31-1) }),
		"length too short":         patch(func(d []byte) { le.PutUint32(d[36:], 0) }),
		"a void with bytes":        patch(func(d []byte) { le.PutUint32(d[36:], voidBit|1) }),
	} {
		var err error
		allocs := testing.AllocsPerRun(10, func() { _, err = decodeBatch(data) })
		if !errors.Is(err, ErrMalformedEntry) {
			t.Errorf("%s: %v", name, err)
		}
		if allocs > 10 { // of the error alone
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

func TestEntryHeader(t *testing.T) {
	t.Parallel()
	good := record(t, KindDeleted, &grouppb.Deleted{})
	with := func(at int, b byte) []byte { d := bytes.Clone(good); d[at] = b; return d }
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"good", good, nil},
		{"raft's own", nil, nil},
		{"raft's own, not nil", []byte{}, nil},
		{"shorter than the header", good[:fixedHeaderSize-1], ErrMalformedEntry},
		{"version 0", with(0, 0), ErrMalformedEntry},
		{"newer version", with(0, entryVersion+1), ErrNewerFormat},
		{"newest version", with(0, 255), ErrNewerFormat},
		{"kind 0 with data", with(1, 0), ErrMalformedEntry},
		{"newer kind", with(1, byte(lastKind)+1), ErrNewerFormat},
		{"newest kind", with(1, 255), ErrNewerFormat},
		{"reserved bytes are for later", with(2, 1), nil},
	} {
		_, _, err := entryKind(c.data)
		if !errors.Is(err, c.want) || (c.want == nil && err != nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		// What the state cannot read, it does not step over.
		s := newTestState()
		before := encoded(t, s)
		_, err = s.apply(newMemLog().add(c.data))
		if !errors.Is(err, c.want) || (c.want == nil && err != nil) {
			t.Errorf("apply of %s: %v, want %v", c.name, err, c.want)
		}
		if err != nil && encoded(t, s) != before {
			t.Errorf("apply of %s: refused, but changed the state", c.name)
		}
	}
}

func TestStampClock(t *testing.T) {
	t.Parallel()
	data := encodeBatch(nil, 1, 2, 3, items("x"))
	want := bytes.Clone(data)
	stampClock(data, 0x0102030405060708)
	copy(want[4:], []byte{8, 7, 6, 5, 4, 3, 2, 1})
	if !bytes.Equal(data, want) {
		t.Fatalf("stamped %x, want %x", data, want)
	}
	stampClock(nil, 1) // raft's own entries have no room for it
	stampClock(make([]byte, fixedHeaderSize-1), 1)
}

// forwarded is what a leader says about an entry that a follower forwards.
func forwarded(data []byte) error {
	m := &raftpb.Message{
		Type: raftpb.MsgProp.Enum(), From: new(uint64(2)), To: new(uint64(1)),
		Entries: []*raftpb.Entry{{Type: raftpb.EntryNormal.Enum(), Data: data}},
	}
	return validateMessage(m, Message{From: 2, To: 1}, 1)
}

// FuzzEntry feeds arbitrary bytes to the codec: it must not panic, the check
// at the leader's door must agree with apply, and what is delivered must be
// inside the entry.
func FuzzEntry(f *testing.F) {
	node := nodeN(3)
	f.Add([]byte{})
	f.Add(encodeBatch(nil, 1, 1, 0, items("a", "", "ccc")))
	f.Add(encodeBatch(nil, 1, 1, 7, []item{{void: true}, {payload: []byte("x")}}))
	f.Add(openRecord(f, 1, node, 2))
	f.Add(record(f, KindSessionExpire, &grouppb.SessionExpire{Session: 1, Last: 4}))
	f.Add(record(f, KindBase, &grouppb.Base{Session: 1, Data: []byte("base")}))
	f.Add(record(f, KindSnapshotRequest, &grouppb.SnapshotRequest{Session: 1}))
	f.Add(record(f, KindSnapshotAnnounce, &grouppb.SnapshotAnnounce{Ref: encodeRef(SnapshotRef{Index: 1}), Node: node[:]}))
	f.Add(record(f, KindReplicaIntent, &grouppb.ReplicaIntent{Nonce: nonceOf(1), Node: node[:]}))
	f.Fuzz(func(t *testing.T, data []byte) {
		log := newMemLog()
		c := &cursor{state: newTestState(), mine: 1}
		log.add(openRecord(t, 1, node, 1))
		log.add(data)
		if _, _, err := c.next(reader{log: log}, 2); err != nil {
			t.Fatal(err)
		}
		d, ok, err := c.next(reader{log: log}, 2)
		if check := forwarded(data); len(data) > 0 && (check == nil) != (err == nil) {
			t.Fatalf("the check says %v, apply says %v", check, err)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformedEntry) && !errors.Is(err, ErrNewerFormat) {
				t.Fatalf("an error without a type: %v", err)
			}
			if ok || c.state.index != 1 {
				t.Fatalf("stepped over what it cannot read, to %d", c.state.index)
			}
			return
		}
		total := 0
		for _, p := range d.payloads {
			if p == nil {
				t.Fatal("a payload is nil")
			}
			total += len(p)
		}
		if total > len(data) {
			t.Fatalf("%d bytes delivered out of an entry of %d", total, len(data))
		}
	})
}
