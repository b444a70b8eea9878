package wan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

const (
	echoRequest = 8
	echoReply   = 0
)

// probe pings: the other host's kernel answers, and this one's says when the
// answer came, so that what is measured is the network and not the scheduler.
func (b *namespaces) probe(from, to, n int, wait time.Duration) (took []time.Duration, err error) {
	var fd int
	err = b.spots[from].thread.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ping: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	patience := unix.NsecToTimeval(int64(wait))
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
	)
	if err != nil {
		return nil, fmt.Errorf("ping: %w", err)
	}
	name := uint16(rand.Uint32()) //nolint:gosec // of this probe: an answer to an earlier one that was given up may still come
	for i := range n {
		rtt, ok, err := ping(fd, b.spots[to].address, name, uint16(i), wait)
		if err != nil {
			return took, fmt.Errorf("ping: %w", err)
		}
		if ok {
			took = append(took, rtt)
		}
	}
	return took, nil
}

// ping sends one request, and waits for its answer; false: it did not come.
func ping(fd int, to [4]byte, name, number uint16, wait time.Duration) (time.Duration, bool, error) {
	request := []byte{echoRequest, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(request[4:], name)
	binary.BigEndian.PutUint16(request[6:], number)
	binary.BigEndian.PutUint16(request[2:], ^fold(sum(0, request)))
	sent := time.Now()
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrInet4{Addr: to}); err != nil {
		return 0, false, err
	}
	answer, control := make([]byte, 512), make([]byte, 128)
	for time.Since(sent) < wait {
		n, oobn, _, _, err := unix.Recvmsg(fd, answer, control, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return 0, false, nil
		case err != nil:
			return 0, false, err
		}
		if n < 28 || answer[20] != echoReply || [4]byte(answer[12:16]) != to ||
			binary.BigEndian.Uint16(answer[24:]) != name || binary.BigEndian.Uint16(answer[26:]) != number {
			continue // another ping's
		}
		at, err := arrival(control[:oobn])
		return at.Sub(sent.Round(0)), true, err // by the wall clock, which the kernel's stamp is of
	}
	return 0, false, nil
}

var errNoStamp = errors.New("the kernel gave no time of arrival")

func arrival(control []byte) (time.Time, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Time{}, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))), nil
		}
	}
	return time.Time{}, errNoStamp
}
