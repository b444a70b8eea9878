package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// Network makes connections. Implementations are safe for concurrent use.
type Network interface {
	// Listen listens on host:port; port 0 takes a free one. An address that
	// is taken is ErrAddressInUse.
	Listen(address string) (net.Listener, error)
	// Dial connects to host:port. It gives up when ctx ends.
	Dial(ctx context.Context, address string) (net.Conn, error)
}

// TCP is the real network.
type TCP struct{}

// keepAlive finds peers that vanished without a word on connections that
// carry nothing: after 15 s of silence, within another 15 s.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// Listen implements Network.
func (TCP) Listen(address string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive, Control: tuneSocket}
	l, err := lc.Listen(context.Background(), "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: %w", ErrAddressInUse, err) // which has the address
	}
	return l, err
}

// Dial implements Network.
func (TCP) Dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive, Control: tuneSocket}
	return d.DialContext(ctx, "tcp", address)
}
