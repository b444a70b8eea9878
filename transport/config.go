package transport

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// Message is one marshalled raft message on its way from a replica of a group
// to another replica of that group on another node.
type Message struct {
	Group    id.Group
	From, To id.Replica
	// Payload is opaque here.
	Payload []byte
	// Parts follow the payload, and arrive as its end. They save the sender a
	// copy: nobody may change them after Send, which may share them with others.
	// A message that arrived has none.
	Parts [][]byte
	// Urgent messages (votes, heartbeats, acknowledgements) have a connection
	// of their own, and so overtake the others. One above Config.PieceBytes is treated as an ordinary one.
	Urgent bool
}

// Handler is what a transport does with what arrives. The methods run on
// goroutines of the transport. All of them may overlap for different nodes; for
// one node HandleMessages with ordinary messages never overlaps itself, nor does
// it with urgent ones, nor do PeerUp and PeerDown. None of them may call
// Transport.Close.
type Handler interface {
	// HandleMessages takes messages of one node: ordinary ones of a group in
	// the order in which they were sent, urgent ones among themselves too. It
	// is called from the connection's reader and must not block. Payloads
	// belong to the receiver from here on (they share one buffer per frame, so
	// that whoever keeps one keeps all); the batch slice does not outlive the
	// call.
	HandleMessages(from id.Node, batch []Message)
	// HandleCall answers a request. Calls run concurrently, at most
	// Config.MaxCalls of them, and half as many for one node. The context ends when the caller gives up, its
	// connection breaks, or the transport closes; the handler must return then.
	// request belongs to the handler, the answer to the transport.
	HandleCall(ctx context.Context, from id.Node, method uint16, request []byte) ([]byte, error)
	// HandleStream answers a request with bytes of any length, at most
	// Config.MaxFetches of them at a time, and half as many for one node. Each Write goes out as it is, so it
	// should be large. Writes block while the reader is slow, and fail when it
	// has gone. Returning nil ends the stream whole; an error reaches the
	// reader after the bytes that were written.
	HandleStream(ctx context.Context, from id.Node, request []byte, w io.Writer) error
	// PeerUp reports that a connection with the node stands: for the first
	// time, again after a PeerDown, or with a newer incarnation. It comes
	// before any message of that incarnation. When messages to an earlier
	// process are found lost after the later one was announced, PeerDown and a
	// second PeerUp of the same incarnation follow. It must not block.
	PeerUp(node id.Node, incarnation uint64)
	// PeerDown reports that a connection broke or could not be made.
	// Every message that Send accepted and that was then lost is followed by a
	// PeerDown, so it may come several times in a row. Connections that close
	// because they are idle are not reported. It must not block.
	PeerDown(node id.Node, err error)
}

// Config says how a transport works. Zero values mean the default.
type Config struct {
	// Node is this node, Incarnation counts its processes: a restarted node
	// must have a greater one. A peer talks to the process with the greatest
	// that it has heard of, and to the first one of those that come with the same.
	Node        id.Node
	Incarnation uint64
	// Cluster tells this node's cluster. While it returns zero, connections
	// are refused in both directions with ErrNotReady.
	Cluster func() id.Cluster

	// BindAddress and Port are where to listen; port 0 takes a free one.
	BindAddress string
	Port        int
	// Network makes connections; nil is TCP.
	Network Network
	// TLS, if set, encrypts everything; it serves both sides, so it needs a
	// certificate, and RootCAs (and ClientCAs, ClientAuth) to check the other
	// one's. Without a ServerName the host of the address is checked.
	TLS *tls.Config
	// Key, if set, must be shared by all nodes: 16 bytes or more, random. Each
	// side proves that it knows the key when a connection is made. It does not
	// encrypt: that is what TLS is for.
	Key []byte

	// Resolve tells where a node is. It must not block; it is called often.
	Resolve func(id.Node) (address string, ok bool)
	Handler Handler
	// Logger takes what an operator should know; nil discards it.
	Logger *slog.Logger
	// Random is the source of nonces and jitter; nil is crypto/rand. The
	// transport serializes its reads. Tests hand in a seeded one.
	Random io.Reader
	// Compress, if set, tells whether what goes to the node is worth the CPU
	// of compression (a WAN link). It must not block; it is asked once per
	// connection. Every node reads compressed frames, whatever this says.
	Compress func(id.Node) bool

	// MaxFrame bounds one message, one request, one answer. It must be the same
	// on all nodes. Default 64 MiB.
	MaxFrame int
	// QueueBytes bounds what waits for one node: messages and calls, each.
	// Urgent messages have a quarter of it. At least
	// MaxFrame plus a little. Default 64 MiB, more if MaxFrame asks for it.
	QueueBytes int
	// PieceBytes is the size of the pieces in which larger messages travel,
	// and about that of a frame. It bounds what an urgent message waits for:
	// 256 KiB at 100 Mbit/s are 20 ms. At most a quarter of MaxFrame. Default
	// 256 KiB.
	PieceBytes int
	// MaxCalls and MaxFetches bound the handlers at work for others; the
	// requests of calls take four times MaxFrame bytes at most. One node has half
	// of each. MaxPeers bounds the nodes known (when there is no room for another,
	// those are forgotten that had no connection for ten idle time-outs),
	// MaxHandshakes the inbound connections that have not said who they are (of
	// the host that has the most, the oldest is cut). Defaults 512, 64, 4096, 128.
	MaxCalls, MaxFetches, MaxPeers, MaxHandshakes int

	// HandshakeTimeout bounds dialing and handshake together. Default 5 s.
	HandshakeTimeout time.Duration
	// PingInterval is how often a connection in use is probed; the answers
	// give the round-trip time. Default 1 s.
	PingInterval time.Duration
	// StallTimeout is how long a probe may stay unanswered, and a write may
	// take, before the connection is given up. Default 10 s.
	StallTimeout time.Duration
	// IdleTimeout is how long a connection stays open unused; at least
	// StallTimeout. Default 60 s.
	IdleTimeout time.Duration
	// FetchTimeout is how long a fetched stream may bring nothing, and how long
	// its reader may take nothing. Default 60 s.
	FetchTimeout time.Duration
	// BackoffMin and BackoffMax bound the wait after a failed dial; it doubles
	// with each failure, half of it random. Defaults 20 ms and 2 s.
	BackoffMin, BackoffMax time.Duration
}

// withDefaults returns a copy of c with the zero values filled in.
func (c Config) withDefaults() Config {
	setInt := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	setTime := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	setInt(&c.MaxFrame, 64<<20)
	setInt(&c.QueueBytes, max(64<<20, c.MaxFrame)+1<<10)
	setInt(&c.PieceBytes, min(256<<10, c.MaxFrame/4))
	setInt(&c.MaxCalls, 512)
	setInt(&c.MaxFetches, 64)
	setInt(&c.MaxPeers, 4096)
	setInt(&c.MaxHandshakes, 128)
	setTime(&c.HandshakeTimeout, 5*time.Second)
	setTime(&c.PingInterval, time.Second)
	setTime(&c.StallTimeout, 10*time.Second)
	setTime(&c.IdleTimeout, max(60*time.Second, c.StallTimeout))
	setTime(&c.FetchTimeout, 60*time.Second)
	setTime(&c.BackoffMin, 20*time.Millisecond)
	setTime(&c.BackoffMax, max(2*time.Second, c.BackoffMin))
	if c.Network == nil {
		c.Network = TCP{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Random == nil {
		c.Random = rand.Reader
	}
	c.Key = bytes.Clone(c.Key)
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
		if c.TLS.MinVersion == 0 {
			c.TLS.MinVersion = tls.VersionTLS13
		}
	}
	return c
}

// maxFrameLimit keeps sizes well inside 32 bits on the wire.
const maxFrameLimit = 1 << 30

// validate reports everything that is wrong with c, defaults filled in.
func (c *Config) validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(!c.Node.IsZero(), "Node is zero")
	check(c.Cluster != nil, "Cluster is nil")
	check(c.Resolve != nil, "Resolve is nil")
	check(c.Handler != nil, "Handler is nil")
	check(c.Port >= 0 && c.Port <= 65535, "Port is %d", c.Port)
	check(len(c.Key) == 0 || len(c.Key) >= 16, "Key has %d bytes, fewer than 16", len(c.Key))
	check(c.MaxFrame >= 1<<10 && c.MaxFrame <= maxFrameLimit, "MaxFrame is %d, outside 1 KiB to 1 GiB", c.MaxFrame)
	check(c.PieceBytes >= 256 && c.PieceBytes <= c.MaxFrame/4, "PieceBytes is %d, outside 256 to a quarter of MaxFrame", c.PieceBytes)
	check(c.QueueBytes >= c.MaxFrame+messageOverhead, "QueueBytes is %d, too small for one message of MaxFrame", c.QueueBytes)
	check(c.MaxCalls > 0 && c.MaxFetches > 0 && c.MaxPeers > 0 && c.MaxHandshakes > 0, "a bound is negative")
	check(c.HandshakeTimeout > 0 && c.PingInterval > 0 && c.StallTimeout > 0 && c.FetchTimeout > 0, "a time-out is negative")
	check(c.IdleTimeout >= c.StallTimeout, "IdleTimeout is shorter than StallTimeout")
	check(c.BackoffMin > 0 && c.BackoffMax >= c.BackoffMin, "BackoffMin and BackoffMax are not in order")
	check(c.TLS == nil || len(c.TLS.Certificates) > 0 || c.TLS.GetCertificate != nil || c.TLS.GetConfigForClient != nil,
		"TLS has no certificate for the server side")
	if len(faults) > 0 {
		return fmt.Errorf("transport configuration: %w", errors.Join(faults...))
	}
	return nil
}

// listenAddress joins BindAddress and Port.
func (c *Config) listenAddress() string {
	return net.JoinHostPort(c.BindAddress, strconv.Itoa(c.Port))
}
