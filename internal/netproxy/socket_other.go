//go:build !linux

package netproxy

import "net/netip"

// Supported returns nil where Processes can work, and ErrUnsupported elsewhere.
func Supported() error { return ErrUnsupported }

func socketInode(_, _ netip.AddrPort) (uint32, error) { return 0, ErrUnsupported }
