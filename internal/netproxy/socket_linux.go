package netproxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// What linux/sock_diag.h and linux/inet_diag.h call these.
const (
	netlinkSockDiag  = 4
	sockDiagByFamily = 20
	diagRequestSize  = syscall.SizeofNlMsghdr + 56
	diagInode        = 68 // offset of the inode in an inet_diag_msg, its last field
	diagAnswerSize   = 72
)

// Supported returns nil where Processes can work, and ErrUnsupported elsewhere.
func Supported() error {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = socketInode(c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort())
	if _, statErr := os.Stat("/proc/self/fd"); err != nil || statErr != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, errors.Join(err, statErr))
	}
	return nil
}

// socketInode finds the IPv4 TCP socket with these ends. ErrOrphan: there is
// none, or no process holds it.
func socketInode(local, remote netip.AddrPort) (uint32, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, netlinkSockDiag)
	if err != nil {
		return 0, fmt.Errorf("socket diagnostics: %w", err)
	}
	defer func() { _ = syscall.Close(fd) }()
	patience := syscall.NsecToTimeval(int64(5 * time.Second))
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &patience); err != nil {
		return 0, fmt.Errorf("socket diagnostics: %w", err)
	}
	if err := syscall.Sendto(fd, diagRequest(local, remote), 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("socket diagnostics: %w", err)
	}
	buf := make([]byte, 4096)
	n, _, err := syscall.Recvfrom(fd, buf, 0)
	if err != nil {
		return 0, fmt.Errorf("socket diagnostics: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(buf[:n])
	if err != nil || len(messages) == 0 {
		return 0, fmt.Errorf("socket diagnostics: malformed answer of %d bytes: %w", n, err)
	}
	m := messages[0]
	switch {
	case m.Header.Type == syscall.NLMSG_ERROR && len(m.Data) >= 4:
		errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data))) //nolint:gosec // an error number
		if errno == syscall.ENOENT {
			return 0, ErrOrphan
		}
		return 0, fmt.Errorf("socket diagnostics: %w", errno)
	case m.Header.Type != sockDiagByFamily || len(m.Data) < diagAnswerSize:
		return 0, fmt.Errorf("socket diagnostics: answer of type %d, %d bytes", m.Header.Type, len(m.Data))
	}
	inode := binary.NativeEndian.Uint32(m.Data[diagInode:])
	if inode == 0 {
		return 0, ErrOrphan
	}
	return inode, nil
}

// diagRequest is a netlink header and an inet_diag_req_v2 that asks for one socket.
func diagRequest(local, remote netip.AddrPort) []byte {
	b := make([]byte, diagRequestSize)
	binary.NativeEndian.PutUint32(b, diagRequestSize)
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], syscall.NLM_F_REQUEST)
	q := b[syscall.SizeofNlMsghdr:]
	q[0], q[1] = syscall.AF_INET, syscall.IPPROTO_TCP
	binary.NativeEndian.PutUint32(q[4:], ^uint32(0)) // in any state
	binary.BigEndian.PutUint16(q[8:], local.Port())
	binary.BigEndian.PutUint16(q[10:], remote.Port())
	src, dst := local.Addr().Unmap().As4(), remote.Addr().Unmap().As4()
	copy(q[12:], src[:])
	copy(q[28:], dst[:])
	for i := 48; i < 56; i++ {
		q[i] = 0xff // no cookie
	}
	return b
}
