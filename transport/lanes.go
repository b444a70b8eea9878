package transport

import "github.com/copycat-replication/copycat/id"

// inbox holds the messages that wait in an outbox. It is not safe for
// concurrent use.
type inbox struct {
	limit int
	list  []Message
	bytes int // accepted and not packed, as far as the packer has settled
}

// push takes m, unless that is too much. One message always fits.
func (q *inbox) push(m Message) bool {
	size := messageSize(&m)
	if q.bytes+size > q.limit && q.bytes > 0 {
		return false
	}
	q.bytes += size
	q.list = append(q.list, m)
	return true
}

// clear drops everything and returns how many messages that were.
func (q *inbox) clear() int {
	n := len(q.list)
	*q = inbox{limit: q.limit}
	return n
}

// packer turns waiting messages into frames. It belongs to one sender.
//
// A message above piece bytes goes in pieces, one large message at a time;
// between two pieces go the messages of other groups. Those of its own group
// wait behind it, so that each group's order is kept.
type packer struct {
	piece   int
	queue   fifo
	large   Message
	sent    int // of large's payload
	active  bool
	held    []Message // wait until large is through
	blocked map[id.Group]struct{}
	// What was packed since the inbox was last told.
	packedBytes int
	packed      int // messages, since they were last counted

	compress bool
	scratch  []byte
}

// fifo is a queue that is refilled by swapping slices, so that both are reused.
type fifo struct {
	list []Message
	next int
}

func (f *fifo) empty() bool { return f.next == len(f.list) }

func (f *fifo) pop() Message {
	m := f.list[f.next]
	f.list[f.next] = Message{} // the payload is on its way: let it go
	f.next++
	return m
}

// swap takes all of *with, if f is empty, and leaves an empty slice there.
func (f *fifo) swap(with *[]Message) {
	if f.empty() {
		f.list, *with, f.next = *with, f.list[:0], 0
	}
}

// keepQueue bounds the messages for which a queue keeps memory when it is empty:
// about a megabyte. An idle peer keeps none.
const keepQueue = 16 << 10

// take moves what waits in q into the packer, and gives back the room of what
// was packed before. It reports whether there is anything to pack.
func (p *packer) take(q *inbox) bool {
	p.settle(q)
	p.queue.swap(&q.list)
	if p.loaded() {
		return true
	}
	if cap(q.list) > keepQueue || cap(p.queue.list) > keepQueue {
		q.list, p.queue = nil, fifo{}
	}
	return false
}

// settle gives back the room of what was packed.
func (p *packer) settle(q *inbox) {
	q.bytes -= p.packedBytes
	p.packedBytes = 0
}

// loaded reports whether there is something to pack.
func (p *packer) loaded() bool { return p.active || !p.queue.empty() }

// left counts the messages that were taken and not packed.
func (p *packer) left() int {
	n := len(p.queue.list) - p.queue.next + len(p.held)
	if p.active {
		n++
	}
	return n
}

// pack appends what goes into the next write: a frame of messages, and a piece
// of the large one, if there is one.
func (p *packer) pack(buf []byte) []byte {
	start := len(buf)
	buf = openFrame(buf)
	body := len(buf)
	var previous Message
	var last *Message
	for limit := body + p.piece; !p.queue.empty() && len(buf) < limit; {
		m := p.queue.pop()
		if p.waits(&m) {
			continue
		}
		buf = append(appendMessageHead(buf, &m, last), m.Payload...)
		for _, part := range m.Parts {
			buf = append(buf, part...)
		}
		p.count(&m)
		previous = m
		last = &previous
	}
	if len(buf) == body {
		buf = buf[:start]
	} else {
		buf = p.seal(buf, start, frameMessages)
	}
	if p.active {
		buf = p.packPiece(buf)
	}
	return buf
}

// waits takes m out of the way if it is large, or has to stay behind one that
// is: the first large one becomes the current, everything else is held.
func (p *packer) waits(m *Message) bool {
	large := m.size() > p.piece
	if !p.active {
		if !large {
			return false
		}
		p.large, p.sent, p.active = *m, 0, true
		p.blocked = map[id.Group]struct{}{m.Group: {}}
		return true
	}
	if _, ok := p.blocked[m.Group]; !ok && !large {
		return false
	}
	p.blocked[m.Group] = struct{}{}
	p.held = append(p.held, *m)
	return true
}

func (p *packer) packPiece(buf []byte) []byte {
	start, kind := len(buf), framePieceMore
	buf = openFrame(buf)
	if p.sent == 0 {
		kind = framePiece
		buf = appendMessageHead(buf, &p.large, nil)
	}
	total := p.large.size()
	end := min(p.sent+p.piece, total)
	buf = p.large.appendContent(buf, p.sent, end)
	buf = p.seal(buf, start, kind)
	if p.sent = end; p.sent < total {
		return buf
	}
	p.count(&p.large)
	p.large, p.active, p.blocked = Message{}, false, nil
	if len(p.held) > 0 {
		// The held ones were before everything that is still queued.
		p.queue = fifo{list: append(p.held, p.queue.list[p.queue.next:]...)}
		p.held = nil
	}
	return buf
}

func (p *packer) seal(buf []byte, start int, kind byte) []byte {
	var flags byte
	if p.compress {
		buf, flags = compressFrame(buf, start, &p.scratch)
	}
	sealFrame(buf, start, kind, flags)
	return buf
}

func (p *packer) count(m *Message) {
	p.packed++
	p.packedBytes += messageSize(m)
}
