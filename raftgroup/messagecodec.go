package raftgroup

import (
	"errors"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Messages between replicas travel in raft's own protobuf format. The generated
// code copies each entry's data when it writes and when it reads, and makes an
// object of each number; what is here writes and reads the same bytes without.
// Whatever it does not know it leaves to the generated code.

// The numbers of raftpb's fields.
const (
	messageType       = 1
	messageTo         = 2
	messageFrom       = 3
	messageTerm       = 4
	messageLogTerm    = 5
	messageIndex      = 6
	messageEntries    = 7
	messageCommit     = 8
	messageSnapshot   = 9
	messageReject     = 10
	messageRejectHint = 11
	messageContext    = 12
	messageVote       = 13
	messageResponses  = 14

	entryType  = 1
	entryTerm  = 2
	entryIndex = 3
	entryData  = 4
)

// partBytes is the size from which an entry's data is not copied into the
// message: below it, a copy is cheaper than to handle another part.
const partBytes = 1 << 10

// encodeMessage writes m behind a byte of kind. The result is payload followed
// by parts; the parts share memory with m's entries.
func encodeMessage(m *raftpb.Message) (payload []byte, parts [][]byte, err error) {
	if m.GetSnapshot() != nil || len(m.GetResponses()) > 0 || len(m.ProtoReflect().GetUnknown()) > 0 {
		payload = append(make([]byte, 0, 1+proto.Size(m)), wireRaft)
		payload, err = proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(payload, m)
		return payload, nil, err
	}
	size, large := 64+len(m.GetContext()), 0
	for _, e := range m.GetEntries() {
		size += 48
		if len(e.Data) >= partBytes {
			large++
		} else {
			size += len(e.Data)
		}
	}
	b := append(make([]byte, 0, size), wireRaft)
	b = appendNumber(b, messageType, (*int32)(m.Type))
	b = appendNumber(b, messageTo, m.To)
	b = appendNumber(b, messageFrom, m.From)
	b = appendNumber(b, messageTerm, m.Term)
	b = appendNumber(b, messageLogTerm, m.LogTerm)
	b = appendNumber(b, messageIndex, m.Index)
	if large > 0 {
		parts = make([][]byte, 0, 2*large)
	}
	cut := 0 // where the part that is being written begins
	for _, e := range m.GetEntries() {
		b = protowire.AppendTag(b, messageEntries, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(entryWireSize(e)))
		b = appendNumber(b, entryType, (*int32)(e.Type))
		b = appendNumber(b, entryTerm, e.Term)
		b = appendNumber(b, entryIndex, e.Index)
		if e.Data == nil {
			continue
		}
		b = protowire.AppendTag(b, entryData, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(len(e.Data)))
		if len(e.Data) < partBytes {
			b = append(b, e.Data...)
			continue
		}
		if payload == nil {
			payload = b[:len(b):len(b)]
		} else {
			parts = append(parts, b[cut:len(b):len(b)])
		}
		parts, cut = append(parts, e.Data), len(b)
	}
	b = appendNumber(b, messageCommit, m.Commit)
	if m.Reject != nil {
		b = protowire.AppendTag(b, messageReject, protowire.VarintType)
		b = protowire.AppendVarint(b, protowire.EncodeBool(*m.Reject))
	}
	b = appendNumber(b, messageRejectHint, m.RejectHint)
	if m.Context != nil {
		b = protowire.AppendTag(b, messageContext, protowire.BytesType)
		b = protowire.AppendBytes(b, m.Context)
	}
	b = appendNumber(b, messageVote, m.Vote)
	if payload == nil {
		return b, nil, nil
	}
	if len(b) > cut {
		parts = append(parts, b[cut:])
	}
	return payload, parts, nil
}

func appendNumber[T int32 | uint64](b []byte, field protowire.Number, v *T) []byte {
	if v == nil {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(*v))
}

// entryWireSize is the size of an entry's encoding.
func entryWireSize(e *raftpb.Entry) int {
	n := 0
	if e.Type != nil {
		n += 1 + protowire.SizeVarint(uint64(*e.Type))
	}
	if e.Term != nil {
		n += 1 + protowire.SizeVarint(*e.Term)
	}
	if e.Index != nil {
		n += 1 + protowire.SizeVarint(*e.Index)
	}
	if e.Data != nil {
		n += 1 + protowire.SizeBytes(len(e.Data))
	}
	return n
}

// messageSlot holds a message and what its pointers point to: one allocation
// instead of one for each number.
type messageSlot struct {
	m       raftpb.Message
	typ     raftpb.MessageType
	reject  bool
	numbers [messageVote + 1]uint64
}

// entrySlot is the same for an entry.
type entrySlot struct {
	e           raftpb.Entry
	typ         raftpb.EntryType
	term, index uint64
}

// decodeMessage reads a message. Contexts and the data of entries share memory
// with b, which must not be changed any more.
func decodeMessage(b []byte) (*raftpb.Message, error) {
	s := &messageSlot{}
	known, err := s.decode(b)
	if err != nil {
		return nil, err
	}
	if known {
		return &s.m, nil
	}
	return decodeAny(b)
}

// decodeAny reads a message with the generated code, after a look at what that
// would make of it.
func decodeAny(b []byte) (*raftpb.Message, error) {
	entries := 0
	for rest := b; len(rest) > 0; {
		field, _, n := protowire.ConsumeField(rest)
		switch {
		case n < 0:
			return nil, errNotProtobuf
		case field == messageResponses:
			return nil, errResponses
		case field == messageEntries:
			entries++
		}
		rest = rest[n:]
	}
	if entries > maxEntries {
		return nil, errManyEntries
	}
	m := new(raftpb.Message)
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, err
	}
	return m, nil
}

// maxEntries bounds the entries of one message: an empty one takes two bytes in
// it, and a hundred times that in memory. Of maxMessageBytes there are at most
// half as many, each with a term and an index.
const maxEntries = 1 << 16

var (
	// errManyEntries says that a message has more entries than any sender makes.
	errManyEntries = errors.New("too many entries in a message")
	// errResponses says that a message holds others: those are between a raft
	// and its own log.
	errResponses = errors.New("messages within a message")
)

// ownBytes is the size below which an entry's data are copied out of the frame
// that brought them: the log keeps entries for a while, counts their bytes
// alone, and a frame of 256 KiB must not stay for the sake of a few.
const ownBytes = 16 << 10

// errNotProtobuf says that bytes are not a message of raft.
var errNotProtobuf = errors.New("not a message in protobuf format")

// decode reports false if there is something that only the generated code
// understands.
func (s *messageSlot) decode(b []byte) (known bool, err error) {
	m := &s.m
	var slots []entrySlot
	for len(b) > 0 {
		field, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false, errNotProtobuf
		}
		b = b[n:]
		switch {
		case field == messageEntries && wire == protowire.BytesType:
			body, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return false, errNotProtobuf
			}
			b = b[n:]
			if len(slots) == 0 {
				slots = make([]entrySlot, 1+min(countEntries(b), maxEntries))
				m.Entries = slices.Grow(m.Entries, len(slots))
			}
			if known, err := slots[0].decode(body); !known || err != nil {
				return false, err
			}
			m.Entries = append(m.Entries, &slots[0].e)
			if slots = slots[1:]; len(m.Entries) > maxEntries {
				return false, errManyEntries
			}
		case field == messageContext && wire == protowire.BytesType:
			body, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return false, errNotProtobuf
			}
			m.Context, b = body[:len(body):len(body)], b[n:]
		case wire == protowire.VarintType && field <= messageVote:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return false, errNotProtobuf
			}
			b = b[n:]
			if !s.set(field, v) {
				return false, nil
			}
		default:
			return false, nil
		}
	}
	return true, nil
}

// set sets a number, and reports whether that is one which it knows.
func (s *messageSlot) set(field protowire.Number, v uint64) bool {
	m, number := &s.m, &s.numbers[field]
	*number = v
	switch field {
	case messageType:
		if v > uint64(raftpb.MsgForgetLeader) {
			return false
		}
		s.typ = raftpb.MessageType(v)
		m.Type = &s.typ
	case messageTo:
		m.To = number
	case messageFrom:
		m.From = number
	case messageTerm:
		m.Term = number
	case messageLogTerm:
		m.LogTerm = number
	case messageIndex:
		m.Index = number
	case messageCommit:
		m.Commit = number
	case messageReject:
		s.reject = protowire.DecodeBool(v)
		m.Reject = &s.reject
	case messageRejectHint:
		m.RejectHint = number
	case messageVote:
		m.Vote = number
	default:
		return false
	}
	return true
}

// countEntries counts the entries that follow one another at the start of b.
func countEntries(b []byte) (n int) {
	for {
		field, wire, tag := protowire.ConsumeTag(b)
		if tag < 0 || field != messageEntries || wire != protowire.BytesType {
			return n
		}
		_, body := protowire.ConsumeBytes(b[tag:])
		if body < 0 {
			return n
		}
		b = b[tag+body:]
		n++
	}
}

func (s *entrySlot) decode(b []byte) (known bool, err error) {
	for len(b) > 0 {
		field, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false, errNotProtobuf
		}
		b = b[n:]
		if field == entryData && wire == protowire.BytesType {
			data, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return false, errNotProtobuf
			}
			b = b[n:]
			if len(data) < ownBytes {
				data = slices.Clone(data)
			}
			s.e.Data = data[:len(data):len(data)]
			continue
		}
		if wire != protowire.VarintType {
			return false, nil
		}
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return false, errNotProtobuf
		}
		b = b[n:]
		switch field {
		case entryType:
			if v > uint64(raftpb.EntryConfChangeV2) {
				return false, nil
			}
			s.typ = raftpb.EntryType(v)
			s.e.Type = &s.typ
		case entryTerm:
			s.term = v
			s.e.Term = &s.term
		case entryIndex:
			s.index = v
			s.e.Index = &s.index
		default:
			return false, nil
		}
	}
	return true, nil
}
