//go:build unix

package transport

import "syscall"

// newSocketWriter makes the function that tryWrite returns for a socket.
func newSocketWriter(socket syscall.RawConn) func([]byte) (int, error) {
	w := &socketWriter{socket: socket}
	write := w.write
	return func(b []byte) (int, error) { return w.tryWrite(write, b) }
}

// write is called with the socket's descriptor, which does not block. It always
// says that it is done, so that nobody waits.
func (w *socketWriter) write(fd uintptr) bool {
	for w.n < len(w.b) {
		n, err := syscall.Write(int(fd), w.b[w.n:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return true
		case err != nil:
			w.err = err
			return true
		}
		w.n += n
	}
	return true
}
