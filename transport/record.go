package transport

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// Handshake records have a format of their own, since they are read before
// anything is known of the other side: magic (4), major and minor version (1
// each), kind (1), zero (1), length of the body (2), body, CRC-32C of all that
// (4). The first six bytes never change. A later minor version may append to a
// body; what is not known is skipped.
const (
	recordMagic  = "CPYC"
	versionMajor = 1
	versionMinor = 1
	recordHeader = 10
	maxRecord    = 1 << 10 // of a body
)

type recordKind byte

const (
	recordHello     recordKind = 1 // dialer: who I am, whom I want, and for what
	recordChallenge recordKind = 2 // listener: prove that you know the key
	recordProof     recordKind = 3 // dialer: the proof
	recordWelcome   recordKind = 4 // listener: who I am, and my proof
	recordRefuse    recordKind = 5 // listener: why not
)

// purpose is what a connection is for.
type purpose byte

const (
	purposeMessages purpose = 1
	purposeCalls    purpose = 2
	purposeFetch    purpose = 3
	purposeUrgent   purpose = 4 // urgent messages
)

func (p purpose) String() string {
	switch p {
	case purposeMessages:
		return "messages"
	case purposeUrgent:
		return "urgent messages"
	case purposeCalls:
		return "calls"
	case purposeFetch:
		return "fetch"
	}
	return fmt.Sprintf("purpose %d", byte(p))
}

const (
	nonceSize = 32
	macSize   = 32
)

// hello is the first record.
type hello struct {
	cluster      id.Cluster
	from, target id.Node
	incarnation  uint64
	purpose      purpose
	keyed        bool
	idle         time.Duration // after which the dialer closes a connection
	nonce        [nonceSize]byte
	instance     uint64 // since 1.1; 0: not told
}

func (h *hello) append(b []byte) []byte {
	b = append(b, h.cluster[:]...)
	b = append(b, h.from[:]...)
	b = append(b, h.target[:]...)
	b = binary.LittleEndian.AppendUint64(b, h.incarnation)
	var keyed byte
	if h.keyed {
		keyed = 1
	}
	b = append(b, byte(h.purpose), keyed)
	b = binary.LittleEndian.AppendUint32(b, uint32(min(h.idle.Milliseconds(), 1<<31)))
	b = append(b, h.nonce[:]...)
	return binary.LittleEndian.AppendUint64(b, h.instance)
}

func parseHello(body []byte) (h hello, err error) {
	d := decoder{rest: body}
	copy(h.cluster[:], d.take(16))
	copy(h.from[:], d.take(16))
	copy(h.target[:], d.take(16))
	h.incarnation = d.uint64()
	h.purpose = purpose(d.byte())
	keyed := d.byte()
	h.keyed = keyed == 1
	h.idle = time.Duration(d.uint32()) * time.Millisecond
	copy(h.nonce[:], d.take(nonceSize))
	h.instance = d.instance()
	if d.failed || keyed > 1 || h.purpose < purposeMessages || h.purpose > purposeUrgent {
		return h, fmt.Errorf("%w: hello of %d bytes", ErrMalformed, len(body))
	}
	return h, nil
}

// instance reads what version 1.0 does not say.
func (d *decoder) instance() uint64 {
	if len(d.rest) < 8 {
		return 0
	}
	return d.uint64()
}

// welcome is the last record of a handshake that succeeds.
type welcome struct {
	cluster     id.Cluster
	node        id.Node
	incarnation uint64
	mac         [macSize]byte // zero without a key
	instance    uint64        // since 1.1, and behind the proof; 0: not told
}

func (w *welcome) append(b []byte) []byte {
	b = append(w.appendProven(b), w.mac[:]...)
	return binary.LittleEndian.AppendUint64(b, w.instance)
}

// appendProven appends what the proof in the body covers.
func (w *welcome) appendProven(b []byte) []byte {
	b = append(b, w.cluster[:]...)
	b = append(b, w.node[:]...)
	return binary.LittleEndian.AppendUint64(b, w.incarnation)
}

func parseWelcome(body []byte) (w welcome, err error) {
	d := decoder{rest: body}
	copy(w.cluster[:], d.take(16))
	copy(w.node[:], d.take(16))
	w.incarnation = d.uint64()
	copy(w.mac[:], d.take(macSize))
	w.instance = d.instance()
	if d.failed {
		return w, fmt.Errorf("%w: welcome of %d bytes", ErrMalformed, len(body))
	}
	return w, nil
}

// refusal says why a listener ends the handshake, and who it is.
type refusal struct {
	code    byte
	cluster id.Cluster
	node    id.Node
}

// refusalReasons are the errors by their code on the wire. A code is never
// used again.
var refusalReasons = [...]error{
	1: ErrNotReady,
	2: ErrWrongCluster,
	3: ErrWrongNode,
	4: ErrBadKey,
	5: ErrNewerVersion,
	6: ErrStaleIncarnation,
	7: ErrBusy,
	8: ErrMalformed,
}

func (r *refusal) append(b []byte) []byte {
	b = append(b, r.code)
	b = append(b, r.cluster[:]...)
	return append(b, r.node[:]...)
}

func parseRefusal(body []byte) (r refusal, err error) {
	d := decoder{rest: body}
	r.code = d.byte()
	copy(r.cluster[:], d.take(16))
	copy(r.node[:], d.take(16))
	if d.failed {
		return r, fmt.Errorf("%w: refusal of %d bytes", ErrMalformed, len(body))
	}
	return r, nil
}

// appendRecord appends a record with that body.
func appendRecord(b []byte, kind recordKind, body []byte) []byte {
	start := len(b)
	b = append(b, recordMagic...)
	b = append(b, versionMajor, versionMinor, byte(kind), 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, body...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// record is one that was read; raw is all of its bytes, for the proofs.
type record struct {
	kind recordKind
	body []byte
	raw  []byte
}

// readRecord reads a record. Of a newer major version it reads the first six
// bytes only.
func readRecord(r io.Reader) (record, error) {
	raw := make([]byte, recordHeader, recordHeader+128)
	if _, err := io.ReadFull(r, raw[:6]); err != nil {
		return record{}, fmt.Errorf("read handshake: %w", err)
	}
	if string(raw[:4]) != recordMagic {
		return record{}, fmt.Errorf("%w: handshake begins with %x", ErrMalformed, raw[:4])
	}
	if raw[4] > versionMajor {
		return record{}, fmt.Errorf("%w: the other side speaks %d.%d, this one %d.%d",
			ErrNewerVersion, raw[4], raw[5], versionMajor, versionMinor)
	}
	if _, err := io.ReadFull(r, raw[6:]); err != nil {
		return record{}, fmt.Errorf("read handshake: %w", err)
	}
	size := int(binary.LittleEndian.Uint16(raw[8:]))
	if raw[4] < versionMajor || raw[7] != 0 || size > maxRecord {
		return record{}, fmt.Errorf("%w: handshake header %x", ErrMalformed, raw)
	}
	raw = append(raw, make([]byte, size+4)...)
	if _, err := io.ReadFull(r, raw[recordHeader:]); err != nil {
		return record{}, fmt.Errorf("read handshake: %w", err)
	}
	end := recordHeader + size
	if crc32.Checksum(raw[:end], castagnoli) != binary.LittleEndian.Uint32(raw[end:]) {
		return record{}, fmt.Errorf("%w: checksum of a handshake record", ErrMalformed)
	}
	return record{kind: recordKind(raw[6]), body: raw[recordHeader:end], raw: raw}, nil
}
