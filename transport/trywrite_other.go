//go:build !unix

package transport

import "syscall"

// newSocketWriter returns nil where we know no way to write without waiting.
func newSocketWriter(syscall.RawConn) func([]byte) (int, error) { return nil }
