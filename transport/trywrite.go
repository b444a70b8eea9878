package transport

import (
	"net"
	"syscall"
)

// tryWriter is a connection that can write without waiting.
type tryWriter interface {
	// TryWrite writes as much of b as is taken at once, perhaps nothing.
	TryWrite(b []byte) (int, error)
}

// tryWrite returns a function that writes to the connection what is taken at
// once, and is used by one goroutine at a time; nil if c cannot do that. TLS
// cannot: half a record has to be followed by its other half.
func tryWrite(c *conn) func([]byte) (int, error) {
	if c.Conn != c.raw {
		return nil
	}
	switch raw := c.raw.(type) {
	case tryWriter:
		return raw.TryWrite
	case *net.TCPConn:
		if rc, err := raw.SyscallConn(); err == nil {
			return newSocketWriter(rc)
		}
	}
	return nil
}

// socketWriter writes to a socket without waiting. Its closure is made once,
// since it would be an allocation for each write otherwise.
type socketWriter struct {
	socket syscall.RawConn
	b      []byte
	n      int
	err    error
}

func (w *socketWriter) tryWrite(write func(uintptr) bool, b []byte) (int, error) {
	w.b, w.n, w.err = b, 0, nil
	err := w.socket.Write(write)
	w.b = nil
	if err == nil {
		err = w.err
	}
	return w.n, err
}
