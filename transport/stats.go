package transport

import "sync/atomic"

// Stats counts what a transport did since New.
type Stats struct {
	MessagesSent     uint64 // handed to the network
	MessagesReceived uint64 // handed to the handler
	// MessagesDropped were accepted by Send and lost before they were handed
	// to the network, or in a write that failed. What a broken connection
	// swallowed after that is not known.
	MessagesDropped uint64
	QueueFull       uint64 // refusals of Send and Call
	FramesSent      uint64 // of messages and their pieces, counted per write
	BytesSent       uint64 // of messages, on the wire before TLS
	BytesReceived   uint64 // of messages, unpacked
	Dials           uint64
	DialsFailed     uint64
	Refused         uint64 // inbound connections whose handshake failed
	Malformed       uint64 // connections closed for bytes that make no sense
}

type counters struct {
	messagesSent, messagesReceived, messagesDropped, queueFull atomic.Uint64
	framesSent, bytesSent, bytesReceived                       atomic.Uint64
	dials, dialsFailed, refused, malformed                     atomic.Uint64
}

// Stats returns the counters. They are read one by one, not at one instant.
func (t *Transport) Stats() Stats {
	c := &t.counters
	return Stats{
		MessagesSent:     c.messagesSent.Load(),
		MessagesReceived: c.messagesReceived.Load(),
		MessagesDropped:  c.messagesDropped.Load(),
		QueueFull:        c.queueFull.Load(),
		FramesSent:       c.framesSent.Load(),
		BytesSent:        c.bytesSent.Load(),
		BytesReceived:    c.bytesReceived.Load(),
		Dials:            c.dials.Load(),
		DialsFailed:      c.dialsFailed.Load(),
		Refused:          c.refused.Load(),
		Malformed:        c.malformed.Load(),
	}
}
