package transport

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// notSent bounds the bytes that the kernel holds back for one connection
// beyond those in flight. Without it megabytes of ordinary messages pile up in
// the socket, where an urgent one cannot overtake them.
const notSent = 256 << 10

// tuneSocket sets what accepted connections inherit from the listener, and
// dialed ones have from the start. The option is an optimization: a kernel
// without it works too, so a refusal is no error.
func tuneSocket(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
	})
}
