package transport

import (
	"errors"
	"fmt"
)

// Errors of the life cycle and of sending. All are wrapped with what was
// tried and with which node.
var (
	// ErrClosed says that the transport is closed or closing.
	ErrClosed = errors.New("transport closed")
	// ErrAddressInUse says that another socket listens on the wanted address.
	ErrAddressInUse = errors.New("address in use")
	// ErrUnknownNode says that Config.Resolve knows no address of the node.
	ErrUnknownNode = errors.New("unknown node")
	// ErrQueueFull says that what waits for the node has reached its bound.
	// Nothing was queued.
	ErrQueueFull = errors.New("send queue full")
	// ErrTooLarge says that a message, a request or an answer is larger than
	// Config.MaxFrame allows. Nothing was sent.
	ErrTooLarge = errors.New("larger than a frame may be")
	// ErrPeerDown says that the node could not be reached, or that the
	// connection broke. For a Call it leaves open whether the handler ran.
	ErrPeerDown = errors.New("peer down")
	// ErrRefused says, beside ErrPeerDown, that nobody listens at the node's
	// address: its process has most likely ended. Not every system tells.
	ErrRefused = errors.New("connection refused")
	// ErrBusy says that the other side has reached a bound (handlers at work,
	// streams, peers) and has not started what was asked.
	ErrBusy = errors.New("busy")
	// ErrStalled says that the other side went silent although it owed an
	// answer, or took no bytes for too long.
	ErrStalled = errors.New("connection stalled")
	// ErrCut says that a fetched stream ended before its end mark: what was
	// read so far is a prefix.
	ErrCut = errors.New("stream cut")
)

// Errors of the handshake. Both sides get the same one.
var (
	// ErrNotReady says that one of the two does not belong to a cluster yet.
	// It is worth another try.
	ErrNotReady = errors.New("not in a cluster yet")
	// ErrWrongCluster says that the two nodes belong to different clusters;
	// the text names both.
	ErrWrongCluster = errors.New("different clusters")
	// ErrWrongNode says that another node than the wanted one listens at the
	// address, or that both sides claim one and the same NodeID.
	ErrWrongNode = errors.New("wrong node")
	// ErrBadKey says that the two sides do not share a key.
	ErrBadKey = errors.New("keys do not match")
	// ErrNewerVersion says that the other side speaks a newer major version
	// than the refusing one can read.
	ErrNewerVersion = errors.New("newer protocol version")
	// ErrStaleIncarnation says that a newer process of the same node has been
	// heard of already, or that two of them come with the same incarnation: a
	// copied data directory, or one that was set back.
	ErrStaleIncarnation = errors.New("stale incarnation")
	// ErrMalformed says that bytes on a connection are not what the protocol
	// allows. The connection is closed.
	ErrMalformed = errors.New("malformed")
)

// Codes of a RemoteError. Those from CodeReserved up belong to this package;
// a handler may use all below for itself.
const (
	// CodeUnspecified is the code of an error that is no *RemoteError.
	CodeUnspecified uint16 = 0
	// CodeReserved is the first code that handlers must leave alone.
	CodeReserved uint16 = 0xFF00
	// CodeBusy means that the bound of concurrent handlers was reached. The
	// handler did not run. A RemoteError with it is ErrBusy.
	CodeBusy uint16 = 0xFF01
	// CodeTooLarge means that the handler's answer does not fit a frame. A
	// RemoteError with it is ErrTooLarge.
	CodeTooLarge uint16 = 0xFF02
	// CodeCanceled means that the handler gave up because its context ended.
	CodeCanceled uint16 = 0xFF03
)

// maxErrorText bounds the text of an error that travels.
const maxErrorText = 4 << 10

// RemoteError is an error of a handler, as it travels: a code and a text. A
// handler may return one to choose the code.
type RemoteError struct {
	Code uint16
	Text string
}

// Error returns the text.
func (e *RemoteError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("remote error %d", e.Code)
	}
	return e.Text
}

// Is makes the package's own codes match their sentinels.
func (e *RemoteError) Is(target error) bool {
	switch e.Code {
	case CodeBusy:
		return target == ErrBusy
	case CodeTooLarge:
		return target == ErrTooLarge
	}
	return false
}
