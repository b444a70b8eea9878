package transport

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// fuzzSeeds are connections as a transport writes them after the handshake.
func fuzzSeeds() [][]byte {
	p := packer{piece: 300}
	q := inbox{limit: 1 << 20}
	for i := range uint64(6) {
		m := numbered(byte(i%2), i, 100)
		m.Urgent = i == 3
		q.push(m)
	}
	q.push(numbered(1, 9, 700))
	var plain []byte
	for p.take(&q) {
		plain = p.pack(plain)
	}
	p.compress = true
	q.push(numbered(1, 1, 1000))
	q.push(numbered(2, 1, 250))
	q.push(numbered(3, 1, 290))
	q.push(numbered(3, 1, 290))
	var packed []byte
	for p.take(&q) {
		packed = p.pack(packed)
	}
	calls := appendFrame(nil, framePing, make([]byte, 8))
	calls = appendFrame(calls, frameRequest, make([]byte, requestHead), []byte("request"))
	calls = append(calls, response(7, []byte("answer"), nil)...)
	calls = append(calls, response(8, nil, &RemoteError{Code: 3, Text: "failed"})...)
	return [][]byte{plain, packed, calls}
}

// FuzzFrame reads any bytes as frames: they are understood or refused as
// malformed, nothing is larger than allowed, and what is understood as messages
// comes out the same when it is written and read again.
func FuzzFrame(f *testing.F) {
	for _, seed := range fuzzSeeds() {
		f.Add(seed)
		f.Add(seed[5:]) // type, flags, ...
		f.Add(append([]byte{frameMessages}, seed[frameHeader:]...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 4 << 10
		r := frameReader{r: bufio.NewReader(bytes.NewReader(data)), max: limit}
		large := assembler{max: limit}
		if len(data) > 0 { // bodies as such: the checksum keeps most from the loop below
			whole := assembler{max: limit}
			fuzzBody(t, frame{kind: data[0], body: data[1:]}, &whole)
			fuzzBody(t, frame{kind: framePieceMore, body: data[1:]}, &whole)
			fuzzBody(t, frame{kind: framePieceMore, body: data[:1]}, &whole)
			if body, err := decompress(data, limit); err == nil && len(body) > limit {
				t.Fatalf("unpacked %d bytes", len(body))
			}
		}
		for {
			fr, err := r.next()
			if err != nil {
				if err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNewerVersion) {
					t.Fatal(err)
				}
				return
			}
			if len(fr.body) > limit {
				t.Fatalf("body of %d bytes", len(fr.body))
			}
			fuzzBody(t, fr, &large)
		}
	})
}

func fuzzBody(t *testing.T, fr frame, large *assembler) {
	var err error
	switch fr.kind {
	case frameMessages:
		var batch []Message
		if batch, err = decodeMessages(fr.body, nil); err == nil {
			var again []byte
			var last *Message
			for i := range batch {
				again = append(appendMessageHead(again, &batch[i], last), batch[i].Payload...)
				last = &batch[i]
			}
			var second []Message
			if second, err = decodeMessages(again, nil); err != nil || len(second) != len(batch) {
				t.Fatalf("%d messages, then %d, %v", len(batch), len(second), err)
			}
			for i := range batch {
				a, b := batch[i], second[i]
				if a.Group != b.Group || a.From != b.From || a.To != b.To || a.Urgent != b.Urgent || !bytes.Equal(a.Payload, b.Payload) {
					t.Fatalf("message %d changed", i)
				}
			}
		}
	case framePiece:
		err = large.first(fr.body)
	case framePieceMore:
		_, _, err = large.more(fr.body)
		if cap(large.buf) > 2*large.max {
			t.Fatalf("%d bytes are kept for a message", cap(large.buf))
		}
	case frameResponse, frameEnd:
		var e *RemoteError
		if _, err = parseOutcome(fr.body); errors.As(err, &e) {
			err = nil
		}
	}
	if err != nil && !errors.Is(err, ErrMalformed) {
		t.Fatal(err)
	}
}

// script is the other side of a handshake that says what it is told to.
type script struct {
	io.Reader
	said bytes.Buffer
}

func (s *script) Write(b []byte) (int, error) { return s.said.Write(b) }

func handshakeSeeds() (accepts, dials [][]byte) {
	h := hello{cluster: clusterID(1), from: nodeID(2), target: nodeID(1), incarnation: 3, purpose: purposeCalls, idle: time.Second}
	accepts = append(accepts, appendRecord(nil, recordHello, h.append(nil)))
	h.keyed = true
	keyed := appendRecord(nil, recordHello, h.append(nil))
	accepts = append(accepts, appendRecord(keyed, recordProof, make([]byte, macSize)))
	h.cluster = clusterID(2)
	accepts = append(accepts, appendRecord(nil, recordHello, h.append(nil)), []byte("GET / HTTP/1.1\r\n\r\n"))
	w := welcome{cluster: clusterID(1), node: nodeID(2), incarnation: 5}
	r := refusal{code: 2, cluster: clusterID(2), node: nodeID(2)}
	dials = append(dials,
		appendRecord(nil, recordWelcome, w.append(nil)),
		appendRecord(nil, recordRefuse, r.append(nil)),
		appendRecord(appendRecord(nil, recordChallenge, make([]byte, nonceSize)), recordWelcome, w.append(nil)))
	return accepts, dials
}

// FuzzHandshake plays any bytes as the other side of a handshake, in both
// roles, with and without a key. With a key nobody gets in who cannot compute
// the proof; without, only who names this cluster and this node.
func FuzzHandshake(f *testing.F) {
	accepts, dials := handshakeSeeds()
	for _, seed := range append(accepts, dials...) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, key := range [][]byte{nil, []byte("0123456789abcdef")} {
			me := identity{cluster: clusterID(1), node: nodeID(1), incarnation: 1, key: key}
			s := &script{Reader: iotest.OneByteReader(bytes.NewReader(data))}
			it, err := me.acceptHandshake(s, func(stranger) error { return nil })
			if err == nil && (key != nil || !bytes.Contains(data, me.cluster[:]) || it.node == (id.Node{})) {
				t.Fatalf("let %+v in", it)
			}
			if s.said.Len() > 4*maxRecord {
				t.Fatalf("answered %d bytes", s.said.Len())
			}
			s = &script{Reader: bytes.NewReader(data)}
			it, err = me.dialHandshake(s, nodeID(2), purposeMessages, time.Minute)
			if err == nil && (key != nil || it.node != nodeID(2) || !bytes.Contains(data, me.cluster[:])) {
				t.Fatalf("trusted %+v", it)
			}
		}
	})
}
