package wan

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"
)

// TestPipeRate: the rate spaces segments, the queue bounds what waits, and the
// line catches up when it was idle.
func TestPipeRate(t *testing.T) {
	t.Parallel()
	p := newPipe(1, 0, 1)
	p.set(Link{Delay: 10 * time.Millisecond, Rate: 8_000_000, Queue: 10_000}) // a byte is a microsecond
	for i := range 10 {
		if f := p.admit(0, 1000); f != passes {
			t.Fatalf("segment %d: fate %d", i, f)
		}
		if due, want := p.due(0), int64(10*time.Millisecond)+int64(i+1)*int64(time.Millisecond); due != want {
			t.Errorf("segment %d is due at %d, want %d", i, due, want)
		}
	}
	if f := p.admit(0, 1000); f != overflowed {
		t.Errorf("the eleventh thousand into a queue of ten: fate %d", f)
	}
	if f := p.admit(int64(time.Millisecond), 1000); f != passes {
		t.Errorf("after a millisecond there is room for one: fate %d", f)
	}
	late := int64(time.Second)
	if p.admit(late, 1000); p.due(late) != late+int64(11*time.Millisecond) {
		t.Errorf("an idle line saved up: due %d", p.due(late))
	}
	if p.count.Segments != 12 || p.count.Overflowed != 1 || p.count.Bytes != 12_000 {
		t.Errorf("counted %+v", p.count)
	}
}

// TestPipeChance: losses have their share, and jitter its bound, without
// changing the order.
func TestPipeChance(t *testing.T) {
	t.Parallel()
	p := newPipe(7, 0, 1)
	p.set(Link{Delay: 5 * time.Millisecond, Jitter: 2 * time.Millisecond, Loss: 0.1})
	const n = 20_000
	var before int64
	wide := false
	for i := range n {
		now := int64(i) * int64(10*time.Microsecond)
		if p.admit(now, 100) != passes {
			continue
		}
		due := p.due(now)
		if due < before {
			t.Fatalf("segment %d overtakes", i)
		}
		if took := due - now; took < int64(5*time.Millisecond) || took > int64(7*time.Millisecond) {
			t.Fatalf("segment %d takes %d ns", i, took)
		} else if took > int64(6*time.Millisecond) {
			wide = true
		}
		before = due
	}
	if share := float64(p.count.Lost) / n; share < 0.09 || share > 0.11 || !wide {
		t.Errorf("lost %.3f, jitter above a millisecond: %v", share, wide)
	}
	p.set(Link{Cut: true})
	if p.admit(0, 1) != cutOff || p.count.CutOff != 1 {
		t.Errorf("a cut lets segments pass: %+v", p.count)
	}
}

// TestPipeQueue: packets come out as they went in, also when the queue moves.
func TestPipeQueue(t *testing.T) {
	t.Parallel()
	p := newPipe(1, 0, 1)
	in, out := 0, 0
	rng := rand.New(rand.NewPCG(3, 4))
	for in < 20_000 {
		for range rng.IntN(50) {
			p.push(packet{to: in})
			in++
		}
		for range rng.IntN(50) {
			if _, ok := p.next(); !ok {
				break
			}
			if x := p.pop(); x.to != out {
				t.Fatalf("packet %d came as number %d", x.to, out)
			}
			out++
		}
	}
}

// uncut is a packet as a device gives it, to be cut into segments of size.
func uncut(payload []byte, size int) []byte {
	raw := make([]byte, virtioHeader+20+32, virtioHeader+52+len(payload))
	raw[0], raw[1] = 1, kindTCPv4
	binary.NativeEndian.PutUint16(raw[2:], 52)
	binary.NativeEndian.PutUint16(raw[4:], uint16(size))
	binary.NativeEndian.PutUint16(raw[6:], 20)
	binary.NativeEndian.PutUint16(raw[8:], 16)
	ip := raw[virtioHeader:]
	ip[0], ip[9] = 0x45, protoTCP
	binary.BigEndian.PutUint16(ip[2:], uint16(52+len(payload)))
	binary.BigEndian.PutUint16(ip[4:], 1000)
	copy(ip[12:], []byte{10, 99, 1, 1, 10, 99, 2, 1})
	tcp := ip[20:]
	binary.BigEndian.PutUint32(tcp[4:], 0xfffffff0) // it wraps
	tcp[12], tcp[13] = 8<<4, flagFIN|flagPSH|0x10
	return append(raw, payload...)
}

// TestCutSegments: any part of a packet is a packet with the right bytes at
// the right sequence number, and says its own length.
func TestCutSegments(t *testing.T) {
	t.Parallel()
	payload := make([]byte, 1448*4+100)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	f, ok := parse(uncut(payload, 1448))
	if !ok || f.segments != 5 || f.headers != 52 || f.size(0) != 1500 || f.size(4) != 152 {
		t.Fatalf("parsed %v: %d segments, %d bytes of headers", ok, f.segments, f.headers)
	}
	for from := range 5 {
		for to := from + 1; to <= 5; to++ {
			got := f.cut(make([]byte, tunBytes), from, to)
			part := payload[from*1448 : min(to*1448, len(payload))]
			ip, tcp := got[virtioHeader:], got[virtioHeader+20:]
			if !bytes.Equal(ip[52:], part) || int(binary.BigEndian.Uint16(ip[2:])) != 52+len(part) {
				t.Fatalf("%d to %d: %d bytes", from, to, len(ip))
			}
			start := uint32(from * 1448)
			if seq := binary.BigEndian.Uint32(tcp[4:]); seq != 0xfffffff0+start {
				t.Errorf("%d to %d: sequence %x", from, to, seq)
			}
			if fin := tcp[13]&flagFIN != 0; fin != (to == 5) {
				t.Errorf("%d to %d: FIN %v", from, to, fin)
			}
			whole := from == 0 && to == 5
			if !whole && fold(sum(0, ip[:20])) != 0xffff {
				t.Errorf("%d to %d: header checksum", from, to)
			}
			if again, ok := parse(got); !ok || again.segments != to-from {
				t.Errorf("%d to %d: parsed as %d segments, %v", from, to, again.segments, ok)
			}
		}
	}
	for cut := range 60 { // nothing short makes it panic
		parse(uncut(nil, 1448)[:cut])
	}
}
