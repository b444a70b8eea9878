package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestNetworkConformance holds both networks to what the transport builds on.
func TestNetworkConformance(t *testing.T) {
	t.Parallel()
	networks := map[string]func() (listen, dial Network, address string){
		"tcp": func() (Network, Network, string) { return TCP{}, TCP{}, "127.0.0.1:0" },
		"mem": func() (Network, Network, string) {
			n := NewMemNetwork()
			return n.Host("a"), n.Host("b"), "a:0"
		},
	}
	for name, network := range networks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listen, dial, address := network()
			l, err := listen.Listen(address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if _, err := listen.Listen(l.Addr().String()); !errors.Is(err, ErrAddressInUse) {
				t.Fatalf("second listener: %v", err)
			}
			testConn(t, l, dial)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Fatalf("accept after close: %v", err)
			}
			if _, err := dial.Dial(context.Background(), l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("dial after close: %v", err)
			}
			again, err := listen.Listen(l.Addr().String())
			if err != nil {
				t.Fatalf("the address is not free: %v", err)
			}
			again.Close()
		})
	}
}

func testConn(t *testing.T, l net.Listener, dial Network) {
	near, err := dial.Dial(context.Background(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if near.RemoteAddr().String() != l.Addr().String() || far.RemoteAddr().String() != near.LocalAddr().String() {
		t.Fatalf("addresses: %s, %s, %s", near.RemoteAddr(), far.RemoteAddr(), near.LocalAddr())
	}
	// A deadline interrupts, and is no end.
	_ = far.SetReadDeadline(time.Now().Add(time.Millisecond))
	buf := make([]byte, 10)
	if _, err := far.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read past the deadline: %v", err)
	}
	_ = far.SetReadDeadline(time.Time{})
	// More than any buffer holds goes through, in order, and then the end.
	data := make([]byte, 20<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := near.Write(data)
		near.Close()
		sent <- err
	}()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(data), err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if _, err := near.Read(buf); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("read of a closed connection: %v", err)
	}
	// Who writes to nobody finds out, by an error or at the deadline.
	_ = far.SetWriteDeadline(time.Now().Add(10 * time.Second))
	for err = nil; err == nil; {
		_, err = far.Write(data)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("write to a closed connection: %v", err)
	}
}

// memPair makes a connection between hosts a and b.
func memPair(t *testing.T, n *MemNetwork) (a, b net.Conn) {
	t.Helper()
	l, err := n.Host("b").Listen(":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = n.Host("a").Dial(context.Background(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestMemNetworkLatency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := NewMemNetwork()
		n.SetLatency("a", "b", 50*time.Millisecond)
		start := time.Now()
		a, b := memPair(t, n)
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Fatalf("dial took %s", d)
		}
		start = time.Now()
		a.Write([]byte("x"))
		n.SetLatency("a", "b", time.Millisecond) // what follows does not overtake
		a.Write([]byte("y"))
		a.Close()
		got, err := io.ReadAll(b)
		if err != nil || string(got) != "xy" || time.Since(start) != 50*time.Millisecond {
			t.Fatalf("%q, %v after %s", got, err, time.Since(start))
		}
		b.Close()
	})
}

func TestMemNetworkFaults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := NewMemNetwork()
		a, b := memPair(t, n)
		buf := make([]byte, 10)
		readFails := func(c net.Conn, want error) {
			t.Helper()
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(buf); !errors.Is(err, want) {
				t.Fatalf("%v, want %v", err, want)
			}
		}
		n.Cut("a", "b")
		a.Write([]byte("held"))
		b.Write([]byte("through"))
		readFails(b, os.ErrDeadlineExceeded)
		_ = a.SetReadDeadline(time.Now().Add(time.Second))
		if k, err := a.Read(buf); err != nil || string(buf[:k]) != "through" {
			t.Fatalf("%q, %v", buf[:k], err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := n.Host("b").Dial(ctx, "a:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("dial into a cut: %v", err)
		}
		n.Heal("a", "b")
		_ = b.SetReadDeadline(time.Now().Add(time.Second))
		if k, err := b.Read(buf); err != nil || string(buf[:k]) != "held" {
			t.Fatalf("%q, %v", buf[:k], err)
		}
		n.Partition("a", "b")
		_ = a.SetWriteDeadline(time.Now().Add(time.Second))
		if k, err := a.Write(make([]byte, 2*memCapacity)); k != memCapacity || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("wrote %d, %v: a cut link holds a window", k, err)
		}
		if k := n.Reset("a", "b"); k != 1 {
			t.Fatalf("reset %d connections", k)
		}
		readFails(a, syscall.ECONNRESET)
		readFails(b, syscall.ECONNRESET)
		n.Heal("a", "b")
		c, d := memPair(t, n)
		n.Crash("b")
		readFails(c, syscall.ECONNRESET)
		for _, conn := range []net.Conn{a, b, c, d} {
			conn.Close()
		}
		if len(n.conns) != 0 || len(n.listeners) != 0 {
			t.Fatalf("%d connections and %d listeners are left", len(n.conns), len(n.listeners))
		}
	})
}
