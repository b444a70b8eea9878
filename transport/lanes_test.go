package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// unpack reads all frames in b and returns the messages in the order in which
// a receiver would hand them out.
func unpack(t rapid.TB, b []byte, large *assembler) []Message {
	t.Helper()
	r := frameReader{r: bufio.NewReader(bytes.NewReader(b)), max: 1 << 20}
	var all []Message
	for {
		f, err := r.next()
		if err != nil {
			return all
		}
		var m Message
		whole := false
		switch f.kind {
		case frameMessages:
			all, err = decodeMessages(f.body, all)
		case framePiece:
			err = large.first(f.body)
		case framePieceMore:
			if m, whole, err = large.more(f.body); whole {
				all = append(all, m)
			}
		default:
			err = fmt.Errorf("frame of type %d", f.kind)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever is pushed comes out once, each group's messages in order, and no
// write is larger than promised.
func TestPackerKeepsOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const piece = 256
		p := packer{piece: piece, compress: rapid.Bool().Draw(t, "compress")}
		q := inbox{limit: 1 << 20}
		large := assembler{max: 1 << 20}
		next := map[byte]uint64{} // by group: the number sent next
		want := map[byte]uint64{} // and the one due next
		sent, got := 0, 0
		drain := func() bool {
			if !p.take(&q) {
				return false
			}
			b := p.pack(nil)
			if len(b) == 0 {
				// Everything taken was put behind a large one: that cannot be,
				// since the large one itself moves on.
				t.Fatal("packed nothing")
			}
			if len(b) > 5*piece+4*frameHeader+200 {
				t.Fatalf("one write of %d bytes", len(b))
			}
			for _, m := range unpack(t, b, &large) {
				k := m.Group.Structure[15]
				if n := binary.LittleEndian.Uint64(m.Payload); n != want[k] {
					t.Fatalf("group %d: got %d, want %d", k, n, want[k])
				}
				for i, b := range m.Payload[8:] {
					if b != byte(want[k])+byte(i) {
						t.Fatalf("group %d: message %d of %d bytes changed at %d", k, want[k], len(m.Payload), 8+i)
					}
				}
				want[k]++
				got++
			}
			return true
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.IntRange(0, 2).Draw(t, "step") == 0 {
				drain()
				continue
			}
			m := Message{Group: groupID(byte(rapid.IntRange(1, 3).Draw(t, "group"))), From: 1, To: 2}
			size := rapid.SampledFrom([]int{8, 9, 100, piece}).Draw(t, "size")
			size *= rapid.SampledFrom([]int{1, 1, 3, 9}).Draw(t, "times")
			k := m.Group.Structure[15]
			m.Payload = make([]byte, size)
			binary.LittleEndian.PutUint64(m.Payload, next[k])
			for i := range m.Payload[8:] {
				m.Payload[8+i] = byte(next[k]) + byte(i)
			}
			for cut := rapid.IntRange(8, size).Draw(t, "cut"); cut < len(m.Payload); cut = 8 + (cut-8)/2 {
				m.Parts = append([][]byte{m.Payload[cut:]}, m.Parts...)
				m.Payload = m.Payload[:cut]
				if len(m.Parts) == 3 {
					break
				}
			}
			if !q.push(m) {
				t.Fatal("full")
			}
			next[k]++
			sent++
		}
		for drain() {
		}
		if got != sent || q.bytes != 0 {
			t.Fatalf("%d sent, %d came, %d bytes still counted", sent, got, q.bytes)
		}
	})
}

// A message that comes while a large one is under way goes into the very next
// write, unless it is of the same group: then it waits.
func TestOthersPassLarge(t *testing.T) {
	t.Parallel()
	p := packer{piece: 1 << 10}
	q := inbox{limit: 1 << 20}
	big := assembler{max: 1 << 20}
	q.push(Message{Group: groupID(1), Payload: make([]byte, 10<<10)})
	p.take(&q)
	if ms := unpack(t, p.pack(nil), &big); len(ms) != 0 {
		t.Fatalf("a first piece brought %d messages", len(ms))
	}
	q.push(Message{Group: groupID(1), Payload: []byte("same group")})
	q.push(Message{Group: groupID(2), Payload: []byte("other group")})
	p.take(&q)
	ms := unpack(t, p.pack(nil), &big)
	if len(ms) != 1 || string(ms[0].Payload) != "other group" {
		t.Fatalf("got %v", ms)
	}
	var rest []Message
	for p.take(&q) {
		rest = append(rest, unpack(t, p.pack(nil), &big)...)
	}
	if len(rest) != 2 || len(rest[0].Payload) != 10<<10 || string(rest[1].Payload) != "same group" {
		t.Fatalf("got %d messages", len(rest))
	}
}

func TestInboxBounds(t *testing.T) {
	t.Parallel()
	q := inbox{limit: 1000}
	m := Message{Payload: make([]byte, 500-messageOverhead)}
	for i, want := range []bool{true, true, false} {
		if q.push(m) != want {
			t.Fatalf("message %d of 500 bytes into 1000: not %v", i, want)
		}
	}
	var p packer
	p.piece = 1 << 10
	for p.take(&q) {
		p.pack(nil)
	}
	large := Message{Payload: make([]byte, 2000)}
	if !q.push(large) || q.push(m) || q.clear() != 1 {
		t.Fatal("what was packed makes room, and one message always fits")
	}
}
