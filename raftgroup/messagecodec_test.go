package raftgroup

import (
	"bytes"
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// anyMessage draws a message with any of its fields set or not.
func anyMessage(t *rapid.T) *raftpb.Message {
	number := func(name string) *uint64 {
		if !rapid.Bool().Draw(t, name+" set") {
			return nil
		}
		return new(rapid.Uint64().Draw(t, name))
	}
	data := func(name string) []byte {
		switch rapid.IntRange(0, 3).Draw(t, name) {
		case 0:
			return nil
		case 1:
			return []byte{}
		case 2:
			return rapid.SliceOfN(rapid.Byte(), 1, 60).Draw(t, name)
		}
		return bytes.Repeat([]byte{7}, partBytes+rapid.IntRange(-1, 2000).Draw(t, name))
	}
	m := &raftpb.Message{
		To: number("to"), From: number("from"), Term: number("term"), LogTerm: number("logTerm"), Index: number("index"),
		Commit: number("commit"), RejectHint: number("hint"), Vote: number("vote"), Context: data("context"),
	}
	if rapid.Bool().Draw(t, "typed") {
		m.Type = raftpb.MessageType(rapid.IntRange(0, 22).Draw(t, "type")).Enum()
	}
	if rapid.Bool().Draw(t, "rejecting") {
		m.Reject = new(rapid.Bool().Draw(t, "reject"))
	}
	for range rapid.IntRange(0, 4).Draw(t, "entries") {
		e := &raftpb.Entry{Term: number("entry term"), Index: number("entry index"), Data: data("data")}
		if rapid.Bool().Draw(t, "entry typed") {
			e.Type = raftpb.EntryType(rapid.IntRange(0, 2).Draw(t, "entry type")).Enum()
		}
		m.Entries = append(m.Entries, e)
	}
	if rapid.IntRange(0, 9).Draw(t, "snap") == 0 {
		m.Snapshot = &raftpb.Snapshot{Data: data("snapshot"), Metadata: &raftpb.SnapshotMetadata{Index: number("snapshot index")}}
	}
	if rapid.IntRange(0, 9).Draw(t, "responding") == 0 {
		m.Responses = []*raftpb.Message{{To: number("response to")}}
	}
	return m
}

// What encodeMessage writes is what the generated code writes, and what either
// has written, both read alike.
func TestMessageCodecAgreesWithProtobuf(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := anyMessage(t)
		payload, parts, err := encodeMessage(m)
		if err != nil {
			t.Fatal(err)
		}
		got := Message{Payload: payload, Parts: parts}.Bytes()
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		read := new(raftpb.Message)
		if err := proto.Unmarshal(got[1:], read); got[0] != wireRaft || err != nil || !proto.Equal(read, m) {
			t.Fatalf("%v\nreads as\n%v (%v)", m, read, err)
		}
		if len(want) != len(got)-1 {
			t.Fatalf("%d bytes, the generated code needs %d", len(got)-1, len(want))
		}
		for _, b := range [][]byte{got[1:], want} {
			again, err := decodeMessage(b)
			if len(m.Responses) > 0 { // never travels
				if !errors.Is(err, errResponses) {
					t.Fatalf("%v\nis read: %v", m, err)
				}
				continue
			}
			if err != nil || !proto.Equal(again, m) {
				t.Fatalf("%v\ncomes back as\n%v (%v)", m, again, err)
			}
		}
	})
}

// FuzzDecodeMessage reads any bytes as the generated code does, but for what takes
// too much memory, or does not travel.
func FuzzDecodeMessage(f *testing.F) {
	for _, m := range []*raftpb.Message{
		{}, benchAppend(3, 40), {Type: raftpb.MsgSnap.Enum(), Snapshot: &raftpb.Snapshot{}}, {Context: []byte{}, Vote: new(uint64(1))},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, b...)) // a field twice: the last one counts
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want := new(raftpb.Message)
		wantErr := proto.Unmarshal(b, want)
		got, err := decodeMessage(b)
		if errors.Is(err, errResponses) || errors.Is(err, errManyEntries) {
			return
		}
		if (err == nil) != (wantErr == nil) || (err == nil && !proto.Equal(got, want)) {
			t.Fatalf("%x\nis %v (%v)\nnot %v (%v)", b, got, err, want, wantErr)
		}
	})
}

// A message of two bytes for each entry takes no memory for more entries than any
// sender puts into one, whichever way it is read.
func TestEntriesOfAMessageAreBounded(t *testing.T) {
	t.Parallel()
	entries := func(n int) []byte { return bytes.Repeat([]byte{messageEntries<<3 | 2, 0}, n) }
	unknown := []byte{15 << 3, 1}
	for name, b := range map[string][]byte{
		"plain":         entries(maxEntries + 1),
		"by generated":  append(entries(maxEntries+1), unknown...),
		"unknown first": append(bytes.Clone(unknown), entries(maxEntries+1)...),
		"scattered":     bytes.Repeat([]byte{messageEntries<<3 | 2, 0, messageTerm << 3, 1}, maxEntries+1),
	} {
		if _, err := decodeMessage(b); !errors.Is(err, errManyEntries) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, b := range [][]byte{entries(maxEntries), append(entries(maxEntries), unknown...)} {
		if m, err := decodeMessage(b); err != nil || len(m.Entries) != maxEntries {
			t.Errorf("%d entries, %v", len(m.GetEntries()), err)
		}
	}
}

func benchAppend(entries, size int) *raftpb.Message {
	m := &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), To: new(uint64(1)), From: new(uint64(2)), Term: new(uint64(3)), LogTerm: new(uint64(3)),
		Index: new(uint64(1000)), Commit: new(uint64(990)),
	}
	for i := range uint64(entries) {
		m.Entries = append(m.Entries, &raftpb.Entry{
			Term: new(uint64(3)), Index: new(1001 + i), Type: raftpb.EntryNormal.Enum(), Data: make([]byte, size),
		})
	}
	return m
}

func BenchmarkMessageCodec(b *testing.B) {
	for _, c := range []struct {
		name string
		m    *raftpb.Message
	}{
		{"response", &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), To: new(uint64(1)), From: new(uint64(2)), Term: new(uint64(3)), Index: new(uint64(1000))}},
		{"small", benchAppend(1, 170)}, {"batch", benchAppend(1, 192<<10)}, {"catchup", benchAppend(64, 170)},
	} {
		b.Run("encode/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := encodeMessage(c.m); err != nil {
					b.Fatal(err)
				}
			}
		})
		payload, parts, err := encodeMessage(c.m)
		if err != nil {
			b.Fatal(err)
		}
		wire := Message{Payload: payload, Parts: parts}.Bytes()[1:]
		b.Run("decode/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decodeMessage(wire); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("generated/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				out, err := proto.Marshal(c.m)
				if err == nil {
					err = proto.Unmarshal(out, new(raftpb.Message))
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
