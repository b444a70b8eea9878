//go:build !linux

package transport

import "syscall"

// tuneSocket does nothing where we know no option for it.
func tuneSocket(_, _ string, _ syscall.RawConn) error { return nil }
