package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// A node that is refused learns why, and so does the one that refuses.
func TestHandshakeRefusals(t *testing.T) {
	t.Parallel()
	key := []byte("0123456789abcdef")
	for name, test := range map[string]struct {
		dialer, listener func(*Config)
		want             error
		names            []string
	}{
		"wrong cluster": {
			dialer: func(c *Config) { c.Cluster = func() id.Cluster { return clusterID(9) } },
			want:   ErrWrongCluster,
			names:  []string{clusterID(1).String(), clusterID(9).String()},
		},
		"another node at the address": {
			listener: func(c *Config) { c.Node = nodeID(3) },
			want:     ErrWrongNode,
			names:    []string{nodeID(2).String(), nodeID(3).String()},
		},
		"wrong key":           {dialer: func(c *Config) { c.Key = key }, listener: func(c *Config) { c.Key = []byte("fedcba9876543210") }, want: ErrBadKey},
		"dialer has no key":   {listener: func(c *Config) { c.Key = key }, want: ErrBadKey},
		"listener has no key": {dialer: func(c *Config) { c.Key = key }, want: ErrBadKey},
		"dialer not ready":    {dialer: func(c *Config) { c.Cluster = func() id.Cluster { return id.Cluster{} } }, want: ErrNotReady},
		"listener not ready":  {listener: func(c *Config) { c.Cluster = func() id.Cluster { return id.Cluster{} } }, want: ErrNotReady},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := tcpCluster(t)
			h := newRecorder()
			ca, cb := c.config(1, h), c.config(2, newRecorder())
			if test.dialer != nil {
				test.dialer(&ca)
			}
			if test.listener != nil {
				test.listener(&cb)
			}
			b := c.start(cb)
			a := c.start(ca)
			c.locate(nodeID(2), b.Addr().String())
			_, err := a.Call(context.Background(), nodeID(2), 1, nil)
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			for _, n := range test.names {
				if !strings.Contains(err.Error(), n) {
					t.Errorf("%q does not name %s", err, n)
				}
			}
		})
	}
}

// Two processes with one NodeID (a copied data directory) do not talk.
func TestSameNodeIsRefused(t *testing.T) {
	t.Parallel()
	c := tcpCluster(t)
	a := c.start(c.config(1, newRecorder()))
	me := identity{cluster: clusterID(1), node: nodeID(1)}
	if _, err := me.dialHandshake(rawDial(t, a, TCP{}), nodeID(1), purposeCalls, 0); !errors.Is(err, ErrWrongNode) {
		t.Fatal(err)
	}
}

func TestTooManyPeers(t *testing.T) {
	t.Parallel()
	c := tcpCluster(t)
	cfg := c.config(1, newRecorder())
	cfg.MaxPeers = 1
	a := c.start(cfg)
	b := c.start(c.config(2, newRecorder()))
	d := c.start(c.config(3, newRecorder()))
	if _, err := b.Call(t.Context(), nodeID(1), 1, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Call(t.Context(), nodeID(1), 1, nil); !errors.Is(err, ErrBusy) || !errors.Is(err, ErrPeerDown) {
		t.Fatal(err)
	}
	if err := a.Send(nodeID(3), Message{}); !errors.Is(err, ErrBusy) {
		t.Fatal(err)
	}
}

// Nothing connects before the node has a cluster, and everything after.
func TestClusterComesLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := memCluster(t, NewMemNetwork())
		var joined atomic.Bool
		cfg := c.config(1, newRecorder())
		cfg.Cluster = func() id.Cluster {
			if joined.Load() {
				return clusterID(1)
			}
			return id.Cluster{}
		}
		a := c.start(cfg)
		b := c.start(c.config(2, newRecorder()))
		for _, dial := range []func() ([]byte, error){
			func() ([]byte, error) { return a.Call(t.Context(), nodeID(2), 1, nil) },
			func() ([]byte, error) { return b.Call(t.Context(), nodeID(1), 1, nil) },
		} {
			if _, err := dial(); !errors.Is(err, ErrNotReady) {
				t.Fatal(err)
			}
		}
		joined.Store(true)
		time.Sleep(a.cfg.BackoffMax)
		if _, err := a.Call(t.Context(), nodeID(2), 1, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Call(t.Context(), nodeID(1), 1, nil); err != nil {
			t.Fatal(err)
		}
	})
}

// rawDial connects to a transport without any protocol.
func rawDial(t testing.TB, tr *Transport, network Network) net.Conn {
	t.Helper()
	c, err := network.Dial(context.Background(), tr.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// rawNode shakes hands as node 9 and goes on without a transport.
func rawNode(t testing.TB, tr *Transport, network Network, for_ purpose, incarnation uint64) net.Conn {
	t.Helper()
	c := rawDial(t, tr, network)
	me := identity{cluster: clusterID(1), node: nodeID(9), incarnation: incarnation}
	if _, err := me.dialHandshake(c, tr.cfg.Node, for_, time.Minute); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNewerVersionIsRefused(t *testing.T) {
	t.Parallel()
	c := tcpCluster(t)
	a := c.start(c.config(1, newRecorder()))
	conn := rawDial(t, a, TCP{})
	if _, err := conn.Write(append([]byte(recordMagic), versionMajor+1, 0)); err != nil {
		t.Fatal(err)
	}
	r, err := readRecord(conn)
	if err != nil || r.kind != recordRefuse {
		t.Fatalf("kind %d, %v", r.kind, err)
	}
	me := identity{}
	if err := me.refusedBy(r.body, nodeID(1)); !errors.Is(err, ErrNewerVersion) || !strings.Contains(err.Error(), nodeID(1).String()) {
		t.Fatal(err)
	}
	// The other way round: a listener that answers in a newer version.
	l, err := TCP{}.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c.locate(nodeID(2), l.Addr().String())
	served := make(chan struct{})
	go func() {
		defer close(served)
		if conn, err := l.Accept(); err == nil {
			_, _ = conn.Write(append([]byte(recordMagic), versionMajor+1, 0))
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	if _, err := a.Call(t.Context(), nodeID(2), 1, nil); !errors.Is(err, ErrNewerVersion) {
		t.Fatal(err)
	}
	await(t, served, "the listener")
}

// The dialer does not take the listener's word for it.
func TestDialerChecksTheWelcome(t *testing.T) {
	t.Parallel()
	me := identity{cluster: clusterID(1), node: nodeID(1)}
	for _, test := range []struct {
		w    welcome
		want error
	}{
		{welcome{cluster: clusterID(1), node: nodeID(2)}, nil},
		{welcome{cluster: clusterID(1), node: nodeID(3)}, ErrWrongNode},
		{welcome{cluster: clusterID(2), node: nodeID(2)}, ErrWrongCluster},
	} {
		s := &script{Reader: bytes.NewReader(appendRecord(nil, recordWelcome, test.w.append(nil)))}
		if _, err := me.dialHandshake(s, nodeID(2), purposeCalls, 0); !errors.Is(err, test.want) {
			t.Errorf("%v, want %v", err, test.want)
		}
	}
}

// Who relays a proof from one TLS session into another gets nowhere; nor does
// a listener without the key that welcomes everybody.
func TestProofsAreBound(t *testing.T) {
	t.Parallel()
	shake := func(dialer, listener identity) (dialed, accepted error) {
		a, b := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, accepted = listener.acceptHandshake(b, func(stranger) error { return nil })
			b.Close()
		}()
		_, dialed = dialer.dialHandshake(a, listener.node, purposeCalls, 0)
		a.Close()
		<-done
		return dialed, accepted
	}
	key := []byte("0123456789abcdef")
	a := identity{cluster: clusterID(1), node: nodeID(1), key: key, binding: []byte("session 1")}
	b := identity{cluster: clusterID(1), node: nodeID(2), key: key, binding: []byte("session 1")}
	if d, l := shake(a, b); d != nil || l != nil {
		t.Fatal(d, l)
	}
	b.binding = []byte("session 2")
	if d, l := shake(a, b); !errors.Is(d, ErrBadKey) || !errors.Is(l, ErrBadKey) {
		t.Fatal(d, l)
	}
	w := welcome{cluster: clusterID(1), node: nodeID(2)}
	for _, said := range [][]byte{
		appendRecord(nil, recordWelcome, w.append(nil)),
		appendRecord(appendRecord(nil, recordChallenge, b.nonce[:]), recordWelcome, w.append(nil)),
	} {
		if _, err := a.dialHandshake(&script{Reader: bytes.NewReader(said)}, nodeID(2), purposeCalls, 0); !errors.Is(err, ErrBadKey) {
			t.Fatal(err)
		}
	}
}

// A later minor version may say more: what is not known is skipped.
func TestLongerHelloIsRead(t *testing.T) {
	t.Parallel()
	h := hello{cluster: clusterID(1), from: nodeID(9), target: nodeID(1), incarnation: 3, purpose: purposeCalls, keyed: true, idle: time.Second}
	got, err := parseHello(append(h.append(nil), 1, 2, 3))
	if err != nil || got != h {
		t.Fatalf("%+v, %v", got, err)
	}
}

// A process that was replaced is not listened to any more.
func TestStaleIncarnationIsRefused(t *testing.T) {
	t.Parallel()
	c := tcpCluster(t)
	h := newRecorder()
	a := c.start(c.config(1, h))
	old := rawNode(t, a, TCP{}, purposeCalls, 4)
	if e := await(t, h.events, "up"); e.incarnation != 4 || e.err != nil {
		t.Fatal(e)
	}
	rawNode(t, a, TCP{}, purposeMessages, 5)
	if e := await(t, h.events, "up"); e.incarnation != 5 || e.err != nil {
		t.Fatal(e)
	}
	if _, err := old.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the older connection still stands: %v", err)
	}
	conn := rawDial(t, a, TCP{})
	me := identity{cluster: clusterID(1), node: nodeID(9), incarnation: 4}
	if _, err := me.dialHandshake(conn, nodeID(1), purposeCalls, 0); !errors.Is(err, ErrStaleIncarnation) {
		t.Fatal(err)
	}
}

// altered is a frame with another byte in its header, and a fitting checksum.
func altered(f []byte, at int, to byte) []byte {
	f = append([]byte(nil), f...)
	f[at] = to
	binary.LittleEndian.PutUint32(f[8:], frameCRC(f[:8], f[frameHeader:]))
	return f
}

func TestGarbageClosesTheConnection(t *testing.T) {
	t.Parallel()
	c := tcpCluster(t)
	h := newRecorder()
	cfg := c.config(1, h)
	cfg.MaxFrame = 1 << 20
	a := c.start(cfg)
	closed := func(conn net.Conn) {
		t.Helper()
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection still stands")
		}
	}
	conn := rawDial(t, a, TCP{})
	_, _ = conn.Write([]byte("GET / HTTP/1.1\r\nHost: example\r\n\r\n"))
	closed(conn)

	good := appendFrame(nil, framePing, make([]byte, 8))
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)-1] ^= 1
	newer := altered(good, 4, frameVersion+1)
	hugeHead := appendMessageHead(nil, &Message{}, nil)
	hugeHead = binary.AppendUvarint(hugeHead[:len(hugeHead)-1], 1<<50)
	oversized := append([]byte(nil), good...)
	binary.LittleEndian.PutUint32(oversized, 1<<31)
	life := uint64(0)
	for name, test := range map[string]struct {
		bytes []byte
		want  error
	}{
		"checksum":       {flipped, ErrMalformed},
		"reserved byte":  {altered(good, 7, 1), ErrMalformed},
		"unknown flag":   {altered(good, 6, 2), ErrMalformed},
		"version zero":   {altered(good, 4, 0), ErrMalformed},
		"huge message":   {appendFrame(nil, framePiece, hugeHead), ErrMalformed},
		"newer frame":    {newer, ErrNewerVersion},
		"oversized":      {oversized, ErrMalformed},
		"wrong type":     {appendFrame(nil, frameResponse, make([]byte, 8)), ErrMalformed},
		"unknown type":   {appendFrame(nil, 99), ErrMalformed},
		"messages":       {appendFrame(nil, frameMessages, []byte{0, 1, 2}), ErrMalformed},
		"piece of none":  {appendFrame(nil, framePieceMore, []byte{0, 1, 2}), ErrMalformed},
		"cut in a frame": {good[:len(good)-1], io.ErrUnexpectedEOF},
	} {
		for len(h.events) > 0 {
			<-h.events
		}
		life++ // or it is told to come back later
		conn := rawNode(t, a, TCP{}, purposeMessages, life)
		_, _ = conn.Write(test.bytes)
		if test.want == io.ErrUnexpectedEOF {
			conn.Close()
		} else {
			closed(conn)
		}
		e := await(t, h.events, name)
		if e.err == nil {
			e = await(t, h.events, name) // the first was PeerUp
		}
		if !errors.Is(e.err, ErrPeerDown) || !errors.Is(e.err, test.want) {
			t.Errorf("%s: %v, want %v", name, e.err, test.want)
		}
	}
}

// A connection that does not finish its handshake is closed in time, however
// it goes about it, and too many of them push out the oldest.
func TestSlowHandshake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		cfg := c.config(1, newRecorder())
		cfg.MaxHandshakes = 2
		a := c.start(cfg)
		stranger := network.Host("stranger")
		start := time.Now()
		silent, slow := rawDial(t, a, stranger), rawDial(t, a, stranger)
		go func() {
			for _, b := range []byte(recordMagic) {
				if _, err := slow.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(2 * time.Second)
			}
		}()
		for _, conn := range []net.Conn{silent, slow} {
			_, _ = io.Copy(io.Discard, conn)
			if d := time.Since(start); d != a.cfg.HandshakeTimeout {
				t.Fatalf("closed after %s", d)
			}
		}
		time.Sleep(time.Minute)
		start = time.Now()
		first := rawDial(t, a, stranger)
		synctest.Wait() // it counts before the others come
		rawDial(t, a, stranger)
		rawDial(t, a, stranger)
		_, _ = io.Copy(io.Discard, first)
		if d := time.Since(start); d != 0 {
			t.Fatalf("the oldest of three, where two are allowed, was closed after %s", d)
		}
		// An honest node gets through all the same.
		b := c.start(c.config(2, newRecorder()))
		if _, err := b.Call(t.Context(), nodeID(1), 1, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestConfigReportsEveryFault(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Key: []byte("short"), PieceBytes: 1, IdleTimeout: 1, Port: -1})
	if err == nil {
		t.Fatal("no error")
	}
	for _, field := range []string{"Node", "Cluster", "Resolve", "Handler", "Key", "PieceBytes", "IdleTimeout", "Port"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%q does not name %s", err, field)
		}
	}
	c := tcpCluster(t)
	a := c.start(c.config(1, newRecorder()))
	cfg := c.config(2, newRecorder())
	cfg.Port = a.Addr().(*net.TCPAddr).Port
	if _, err := New(cfg); !errors.Is(err, ErrAddressInUse) {
		t.Fatal(err)
	}
}
