package transport

import (
	"encoding/binary"
	"fmt"

	"github.com/copycat-replication/copycat/id"
)

// A message in a frame: flags (1), the group unless it is the one of the
// message before (structure 16, birth and recovery as uvarints), from, to and
// length as uvarints, payload.
const (
	messageUrgent    byte = 1
	messageSameGroup byte = 2
)

// messageOverhead is what a waiting message counts beyond its payload: more
// than its head on the wire, and about what it takes in memory.
const messageOverhead = 128

func messageSize(m *Message) int { return m.size() + messageOverhead }

// size is that of the payload with its parts.
func (m *Message) size() int {
	n := len(m.Payload)
	for _, p := range m.Parts {
		n += len(p)
	}
	return n
}

// appendContent appends what is between from and to of the payload with its parts.
func (m *Message) appendContent(buf []byte, from, to int) []byte {
	add := func(p []byte) {
		if from < len(p) && to > 0 {
			buf = append(buf, p[max(from, 0):min(to, len(p))]...)
		}
		from, to = from-len(p), to-len(p)
	}
	add(m.Payload)
	for _, p := range m.Parts {
		add(p)
	}
	return buf
}

// appendMessageHead appends all of m but the payload. previous is the message
// before it in the same frame, or nil.
func appendMessageHead(buf []byte, m, previous *Message) []byte {
	var flags byte
	if m.Urgent {
		flags |= messageUrgent
	}
	if previous != nil && previous.Group == m.Group {
		flags |= messageSameGroup
	}
	buf = append(buf, flags)
	if flags&messageSameGroup == 0 {
		buf = append(buf, m.Group.Structure[:]...)
		buf = binary.AppendUvarint(buf, m.Group.Incarnation.Birth)
		buf = binary.AppendUvarint(buf, uint64(m.Group.Incarnation.Recovery))
	}
	buf = binary.AppendUvarint(buf, uint64(m.From))
	buf = binary.AppendUvarint(buf, uint64(m.To))
	return binary.AppendUvarint(buf, uint64(m.size()))
}

// messageDecoder reads the messages of a frame's body, some at a time: an empty
// message takes four bytes there, and thirty times that in memory.
type messageDecoder struct {
	decoder
	size  int // of the body
	count int // of the messages read
	group id.Group
}

func newMessageDecoder(body []byte) *messageDecoder {
	return &messageDecoder{decoder: decoder{rest: body}, size: len(body)}
}

// next appends the next messages to batch, at most limit of them: none if there
// are no more. Payloads are slices of the body.
func (d *messageDecoder) next(batch []Message, limit int) ([]Message, error) {
	for range limit {
		if len(d.rest) == 0 {
			break
		}
		m, size := d.messageHead(d.group, d.count == 0)
		if d.failed || size > uint64(len(d.rest)) {
			return batch, fmt.Errorf("%w: message %d of a frame of %d bytes", ErrMalformed, d.count, d.size)
		}
		m.Payload = d.take(int(size))
		d.group = m.Group
		d.count++
		batch = append(batch, m)
	}
	return batch, nil
}

// decoder takes a body apart. After a fault it returns zeros, and failed is set.
type decoder struct {
	rest   []byte
	failed bool
}

// messageHead reads the head of a message and the length of its payload.
func (d *decoder) messageHead(group id.Group, first bool) (m Message, size uint64) {
	flags := d.byte()
	if flags&^(messageUrgent|messageSameGroup) != 0 || first && flags&messageSameGroup != 0 {
		d.failed = true
	}
	m.Urgent = flags&messageUrgent != 0
	if flags&messageSameGroup == 0 {
		copy(group.Structure[:], d.take(len(group.Structure)))
		group.Incarnation.Birth = d.uvarint()
		recovery := d.uvarint()
		group.Incarnation.Recovery = uint32(recovery)
		if uint64(uint32(recovery)) != recovery {
			d.failed = true
		}
	}
	m.Group = group
	m.From, m.To = id.Replica(d.uvarint()), id.Replica(d.uvarint())
	return m, d.uvarint()
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

// take cuts off n bytes; they cannot be appended into what follows.
func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.rest) || d.failed {
		d.failed = true
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || d.failed {
		d.failed = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) uint16() uint16 {
	if b := d.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// assembler puts a large message together from its pieces. A stream has one
// large message on its way at a time, so the memory is bounded by max.
type assembler struct {
	max     int
	message Message
	buf     []byte // what has arrived; its memory is at most twice that, or keepScratch
	total   int
	active  bool
}

// first takes the body of a first piece: the head of the message, and bytes.
func (a *assembler) first(body []byte) error {
	if a.active {
		return fmt.Errorf("%w: a large message begins inside another", ErrMalformed)
	}
	d := decoder{rest: body}
	m, size := d.messageHead(id.Group{}, true)
	if d.failed || size > uint64(a.max) || uint64(len(d.rest)) >= size {
		return fmt.Errorf("%w: first piece of a message of %d bytes", ErrMalformed, size)
	}
	a.message, a.total, a.active = m, int(size), true
	a.buf = append(make([]byte, 0, min(a.total, keepScratch)), d.rest...)
	return nil
}

// more takes the body of a later piece. When the message is whole, it returns
// it and true.
func (a *assembler) more(body []byte) (Message, bool, error) {
	if !a.active || len(body) == 0 || len(body) > a.total-len(a.buf) {
		return Message{}, false, fmt.Errorf("%w: piece of %d bytes where none fits", ErrMalformed, len(body))
	}
	if len(a.buf)+len(body) > cap(a.buf) {
		a.buf = append(make([]byte, 0, min(max(2*cap(a.buf), len(a.buf)+len(body)), a.total)), a.buf...)
	}
	a.buf = append(a.buf, body...)
	if len(a.buf) < a.total {
		return Message{}, false, nil
	}
	m := a.message
	m.Payload = a.buf
	a.message, a.buf, a.active = Message{}, nil, false
	return m, true, nil
}
