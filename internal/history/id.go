package history

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrMalformed says that bytes or a text are not what this package writes.
var ErrMalformed = errors.New("malformed")

// Bounds of a Subscriber's numbers: together with the base mark they fill the
// 64 bits of a Writer.
const (
	maxStructure = 1<<15 - 1
	maxNode      = 1<<12 - 1
	maxProcess   = 1<<20 - 1
	maxNumber    = 1<<16 - 1

	baseMark = 1 << 63
)

// Subscriber names one subscription's life. The numbers are the rig's own and
// small, so that a violation can be read; all of them start at 1, by custom.
type Subscriber struct {
	Structure uint16 // which data structure
	Node      uint16
	Process   uint32 // the node's process incarnation: grows with each start
	Number    uint32 // the subscription within the process, never used twice in it
}

// Valid reports whether the numbers are within their bounds (15, 12, 20 and 16 bits).
func (s Subscriber) Valid() bool {
	return s.Structure <= maxStructure && s.Node <= maxNode && s.Process <= maxProcess && s.Number <= maxNumber
}

// String prints "s1/n3.2#1": structure 1, node 3, its second process, subscription 1.
func (s Subscriber) String() string { return string(s.appendTo(nil)) }

func (s Subscriber) appendTo(b []byte) []byte {
	b = append(b, 's')
	b = strconv.AppendUint(b, uint64(s.Structure), 10)
	b = append(b, '/', 'n')
	b = strconv.AppendUint(b, uint64(s.Node), 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, uint64(s.Process), 10)
	b = append(b, '#')
	return strconv.AppendUint(b, uint64(s.Number), 10)
}

func (s Subscriber) compare(o Subscriber) int {
	a, b := s.Writer(), o.Writer()
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Writer returns the name under which the subscriber's proposals go.
func (s Subscriber) Writer() Writer {
	return Writer(uint64(s.Structure)<<48 | uint64(s.Node)<<36 | uint64(s.Process)<<16 | uint64(s.Number))
}

// ParseSubscriber reads what String prints.
func ParseSubscriber(text string) (Subscriber, error) {
	rest, ok := strings.CutPrefix(text, "s")
	structure, rest, ok1 := strings.Cut(rest, "/n")
	node, rest, ok2 := strings.Cut(rest, ".")
	process, number, ok3 := strings.Cut(rest, "#")
	if !ok || !ok1 || !ok2 || !ok3 {
		return Subscriber{}, fmt.Errorf("%w: subscriber %q", ErrMalformed, text)
	}
	var n [4]uint64
	for i, f := range []struct {
		text string
		max  uint64
	}{{structure, maxStructure}, {node, maxNode}, {process, maxProcess}, {number, maxNumber}} {
		v, err := strconv.ParseUint(f.text, 10, 32)
		if err != nil || v > f.max {
			return Subscriber{}, fmt.Errorf("%w: subscriber %q", ErrMalformed, text)
		}
		n[i] = v
	}
	return Subscriber{Structure: uint16(n[0]), Node: uint16(n[1]), Process: uint32(n[2]), Number: uint32(n[3])}, nil
}

// Writer is a Subscriber in 64 bits. The highest bit marks what a subscriber
// held before its first commit: its base.
type Writer uint64

// Subscriber returns whom the writer stands for.
func (w Writer) Subscriber() Subscriber {
	return Subscriber{
		Structure: uint16(w >> 48 & maxStructure), Node: uint16(w >> 36 & maxNode),
		Process: uint32(w >> 16 & maxProcess), Number: uint32(w & maxNumber),
	}
}

// ID names one proposal of a history, or one item of a base. The zero ID
// names nothing: it stands for bytes that no writer made.
type ID struct {
	Writer Writer
	Seq    uint64 // 1, 2, 3, … in the order in which the writer proposed
}

// IsBase reports whether the ID names an item of a base, not a proposal.
func (i ID) IsBase() bool { return i.Writer&baseMark != 0 }

// IsZero reports whether i names nothing.
func (i ID) IsZero() bool { return i == ID{} }

// String prints "s1/n3.2#1:17"; an item of a base as "s1/n3.2#1~17"; the zero ID as "none".
func (i ID) String() string { return string(i.appendTo(nil)) }

func (i ID) appendTo(b []byte) []byte {
	if i.IsZero() {
		return append(b, "none"...)
	}
	b = i.Writer.Subscriber().appendTo(b)
	if i.IsBase() {
		b = append(b, '~')
	} else {
		b = append(b, ':')
	}
	return strconv.AppendUint(b, i.Seq, 10)
}

func (i ID) compare(o ID) int {
	switch {
	case i.Writer < o.Writer || (i.Writer == o.Writer && i.Seq < o.Seq):
		return -1
	case i == o:
		return 0
	}
	return 1
}

// ParseID reads what String prints.
func ParseID(text string) (ID, error) {
	if text == "none" {
		return ID{}, nil
	}
	at := strings.LastIndexAny(text, ":~")
	if at < 0 {
		return ID{}, fmt.Errorf("%w: ID %q", ErrMalformed, text)
	}
	sub, err := ParseSubscriber(text[:at])
	if err != nil {
		return ID{}, err
	}
	seq, err := strconv.ParseUint(text[at+1:], 10, 64)
	if err != nil {
		return ID{}, fmt.Errorf("%w: ID %q", ErrMalformed, text)
	}
	id := ID{Writer: sub.Writer(), Seq: seq}
	if text[at] == '~' {
		id.Writer |= baseMark
	}
	return id, nil
}
