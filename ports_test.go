package copycat

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
)

// TestListenOnPort: a port that was chosen freely is taken again, and replaced
// by another if somebody else has it; a configured one is not replaced.
func TestListenOnPort(t *testing.T) {
	t.Parallel()
	inUse := fmt.Errorf("port: %w", ErrAddressInUse)
	var tried []int
	taken := func(ports ...int) func(int) error {
		tried = nil
		return func(port int) error {
			tried = append(tried, port)
			for _, p := range ports {
				if p == port {
					return inUse
				}
			}
			return nil
		}
	}
	if err := listenOnPort(0, 20000, taken()); err != nil || len(tried) != 1 || tried[0] != 20000 {
		t.Errorf("%v, tried %v: not the port of before", err, tried)
	}
	if err := listenOnPort(0, 20000, taken(20000)); err != nil || len(tried) != 2 || tried[1] == 20000 {
		t.Errorf("%v, tried %v: not another one", err, tried)
	}
	if p := tried[1]; p < lowestFreePort || p > highestFreePort {
		t.Errorf("chose %d", p)
	}
	if err := listenOnPort(20000, 0, taken(20000)); !errors.Is(err, ErrAddressInUse) || len(tried) != 1 {
		t.Errorf("%v, tried %v: a configured port was replaced", err, tried)
	}
	broken := errors.New("broken")
	if err := listenOnPort(0, 0, func(int) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v, want the error itself", err)
	}
}

// ownHost is a loopback address on which nobody else takes a port, where the
// system has more than one: for tests that give ports back, and take them again.
func ownHost() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(63), rand.IntN(256), 1+rand.IntN(254))
}

// onLowPort listens on a free port below those of outgoing connections: of
// those, one that is given back may be somebody's connection a moment later.
func onLowPort[T any](host string, listen func(address string) (T, error)) (l T, err error) {
	err = listenOnPort(0, 0, func(port int) error {
		if l, err = listen(fmt.Sprintf("%s:%d", host, port)); err != nil {
			return fmt.Errorf("%w: %w", ErrAddressInUse, err)
		}
		return nil
	})
	return l, err
}

// freePort finds a port that is free over TCP.
func freePort(t testing.TB, host string) int {
	t.Helper()
	l, err := onLowPort(host, func(a string) (net.Listener, error) { return net.Listen("tcp", a) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// mustBeFree binds an address over TCP and UDP.
func mustBeFree(t testing.TB, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Errorf("port is not free: %v", err)
		return
	}
	defer l.Close()
	p, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Errorf("port is not free: %v", err)
		return
	}
	defer p.Close()
}
