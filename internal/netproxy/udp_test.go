package netproxy

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// mail is two nodes that send each other datagrams.
type mail struct {
	*Proxy
	fronts  [3]netip.AddrPort
	sockets [3]*net.UDPConn
}

func newMail(t *testing.T) *mail {
	t.Helper()
	m := &mail{Proxy: New(Config{Seed: 3})}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	for n := 1; n <= 2; n++ {
		s, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		m.sockets[n] = s
		if m.fronts[n], err = m.AddUDP(Node(n), netip.AddrPortFrom(loopback, 0), s.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *mail) send(t *testing.T, from, to int, text string) {
	t.Helper()
	if _, err := m.sockets[from].WriteToUDPAddrPort([]byte(text), m.fronts[to]); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next datagram, or "" if none comes for a while.
func (m *mail) receive(t *testing.T, at int, wait time.Duration) (text string, from netip.AddrPort) {
	t.Helper()
	if err := m.sockets[at].SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	n, from, err := m.sockets[at].ReadFromUDPAddrPort(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", from
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n]), from
}

// awaitDropped waits until the proxy has let so many datagrams fall.
func (m *mail) awaitDropped(t *testing.T, n int64) {
	t.Helper()
	for deadline := time.Now().Add(patience); m.Stats().Dropped != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d datagrams were dropped, want %d", m.Stats().Dropped, n)
		}
	}
}

func TestDatagramsComeFromTheSendersFront(t *testing.T) {
	t.Parallel()
	m := newMail(t)
	m.send(t, 1, 2, "there")
	text, from := m.receive(t, 2, patience)
	if text != "there" || from != m.fronts[1] {
		t.Fatalf("%q from %s, want it from %s", text, from, m.fronts[1])
	}
	// Answering the address that it came from reaches the sender.
	if _, err := m.sockets[2].WriteToUDPAddrPort([]byte("back"), from); err != nil {
		t.Fatal(err)
	}
	if text, from := m.receive(t, 1, patience); text != "back" || from != m.fronts[2] {
		t.Fatalf("%q from %s", text, from)
	}
	if _, err := m.AddUDP(2, netip.AddrPortFrom(loopback, 0), m.fronts[1]); !errors.Is(err, ErrTwice) {
		t.Errorf("a second front: %v", err)
	}
}

func TestDatagramsAreCutDelayedAndDuplicated(t *testing.T) {
	t.Parallel()
	m := newMail(t)
	m.Cut(1, 2)
	m.send(t, 1, 2, "lost")
	m.send(t, 2, 1, "passes")
	if text, _ := m.receive(t, 1, patience); text != "passes" {
		t.Fatalf("got %q", text)
	}
	m.awaitDropped(t, 1) // the proxy has come to it while the cut is there
	m.Heal()
	m.Set(1, 2, Link{Delay: 50 * time.Millisecond, Duplicate: 1})
	began := time.Now()
	m.send(t, 1, 2, "twice")
	for range 2 {
		if text, _ := m.receive(t, 2, patience); text != "twice" {
			t.Fatalf("got %q", text)
		}
	}
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("it took %s", took)
	}
}

func TestLossAndBacklog(t *testing.T) {
	t.Parallel()
	m := newMail(t)
	l := newLine(1, 1, 2)
	l.link = Link{Loss: 0.3}
	passed := 0
	for range 10_000 {
		if _, _, n := l.datagram(time.Now(), 100); n == 1 {
			passed++
		}
	}
	if passed < 6800 || passed > 7200 {
		t.Errorf("%d of 10,000 passed a loss of 0.3", passed)
	}
	l.link = Link{Rate: 10_000}
	now := time.Now()
	passed = 0
	for range 1000 {
		if _, _, n := l.datagram(now, 100); n == 1 {
			passed++
		}
	}
	if passed < 45 || passed > 55 { // half a second's worth
		t.Errorf("%d datagrams wait", passed)
	}
	m.Set(1, 2, Link{Loss: 1})
	m.send(t, 1, 2, "lost")
	m.send(t, 2, 1, "passes")
	if text, _ := m.receive(t, 1, patience); text != "passes" {
		t.Fatalf("got %q", text)
	}
}
