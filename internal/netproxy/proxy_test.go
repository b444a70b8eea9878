package netproxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddr("127.0.0.1")

// patience is how long a test waits for what must happen.
const patience = 2 * time.Minute

// pair is a proxy with node 1, which dials, and node 2, which answers.
type pair struct {
	*Proxy
	front  netip.AddrPort
	server *net.TCPListener
}

func newPair(t *testing.T, owner func(remote, local netip.AddrPort) (Node, error)) *pair {
	t.Helper()
	if owner == nil {
		owner = func(_, _ netip.AddrPort) (Node, error) { return 1, nil }
	}
	server, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	p := New(Config{Owner: owner, Seed: 1})
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	front, err := p.AddTCP(2, netip.AddrPortFrom(loopback, 0), server.Addr().(*net.TCPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.AddUDP(1, netip.AddrPortFrom(loopback, 0), netip.MustParseAddrPort("127.0.0.1:1")); err != nil {
		t.Fatal(err)
	}
	return &pair{p, front, server}
}

func (p *pair) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(p.front))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// turnedAway dials, and returns the error that the connection, or already the
// dial, ends with.
func (p *pair) turnedAway(t *testing.T) error {
	t.Helper()
	c, err := net.DialTimeout("tcp", p.front.String(), patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

func (p *pair) accept(t *testing.T) *net.TCPConn {
	t.Helper()
	if err := p.server.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	c, err := p.server.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v; want %q", got, err, text)
	}
}

// silent wants nothing to come for a moment.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v, through a cut", n, err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
}

func TestPassesBothWaysAndHalfClose(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	c := p.dial(t)
	s := p.accept(t)
	big := bytes.Repeat([]byte("0123456789"), 1<<19)
	go func() {
		_, _ = c.Write(big)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, big) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	send(t, s, "answer")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "answer" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestCutHoldsBytesUntilHealed(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	c := p.dial(t)
	s := p.accept(t)
	send(t, c, "before")
	expect(t, s, "before")
	p.Cut(1, 2)
	send(t, c, "held")
	silent(t, s)
	send(t, s, "the other way") // one direction only
	expect(t, c, "the other way")
	p.Heal()
	expect(t, s, "held")
	p.Isolate(2)
	send(t, c, "1")
	send(t, s, "2")
	silent(t, s)
	silent(t, c)
	if err := c.Close(); err != nil { // the news of it waits too
		t.Fatal(err)
	}
	silent(t, s)
	p.Heal()
	expect(t, s, "1")
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Fatal("the other end is not closed")
	}
}

func TestDialDuringCut(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	p.Partition([]Node{1}, []Node{2})
	c := p.dial(t)
	send(t, c, "hello")
	silent(t, c)
	p.Heal()
	expect(t, p.accept(t), "hello")
}

func TestDelay(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	p.SetAll(Link{Delay: 30 * time.Millisecond, Jitter: 5 * time.Millisecond})
	began := time.Now()
	c := p.dial(t)
	s := p.accept(t)
	send(t, c, "there")
	expect(t, s, "there")
	send(t, s, "back")
	expect(t, c, "back")
	if took := time.Since(began); took < 60*time.Millisecond {
		t.Errorf("a round trip took %s", took)
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	p.Set(1, 2, Link{Rate: 1 << 20})
	c := p.dial(t)
	s := p.accept(t)
	began := time.Now()
	go func() {
		_, _ = c.Write(make([]byte, 256<<10))
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(s)
	if took := time.Since(began); err != nil || len(got) != 256<<10 || took < 240*time.Millisecond {
		t.Errorf("%d bytes in %s, %v", len(got), took, err)
	}
}

func TestRefusalAndReset(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	c := p.dial(t)
	s := p.accept(t)
	send(t, c, "whole") // before that, the proxy may still be dialing
	expect(t, s, "whole")
	p.Reset(2, 1)
	for _, end := range []net.Conn{c, s} {
		if _, err := end.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want a reset", err)
		}
	}
	if err := p.server.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.turnedAway(t); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a dead node's front: got %v, want a reset", err)
	}
}

func TestOrphansAndStrangers(t *testing.T) {
	t.Parallel()
	var who atomic.Value
	who.Store(ErrOrphan)
	p := newPair(t, func(_, _ netip.AddrPort) (Node, error) { return 0, who.Load().(error) })
	send(t, p.dial(t), "from nobody")
	expect(t, p.accept(t), "from nobody")
	p.Cut(1, 2)
	if err := p.turnedAway(t); !errors.Is(err, syscall.ECONNRESET) {
		t.Error("an orphan passed a cut")
	}
	p.Heal()
	who.Store(ErrStranger)
	if err := p.turnedAway(t); !errors.Is(err, syscall.ECONNRESET) {
		t.Error("a stranger passed")
	}
	if st := p.Stats(); st.Orphans != 2 || st.Strangers != 1 || st.Connections != 3 {
		t.Errorf("%+v", st)
	}
}

// TestSlowReaderBoundsMemory: a node that reads nothing makes the sender wait.
func TestSlowReaderBoundsMemory(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	c := p.dial(t)
	p.accept(t)
	p.Cut(1, 2)
	if err := c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Write(make([]byte, 64<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n > chunkBytes*(maxChunks+2)+(16<<20) {
		t.Errorf("%d bytes were taken, %v", n, err)
	}
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	if err := Supported(); err != nil {
		t.Skip(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	remote, local := s.RemoteAddr().(*net.TCPAddr).AddrPort(), s.LocalAddr().(*net.TCPAddr).AddrPort()
	var who Processes
	if _, err := who.Owner(remote, local); !errors.Is(err, ErrStranger) {
		t.Errorf("an unknown process: %v", err)
	}
	who.Add(os.Getpid(), 7)
	if node, err := who.Owner(remote, local); node != 7 || err != nil {
		t.Errorf("got %d, %v", node, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := who.Owner(remote, local); !errors.Is(err, ErrOrphan) {
		t.Errorf("a closed connection: %v", err)
	}
	who.Remove(os.Getpid())
}
