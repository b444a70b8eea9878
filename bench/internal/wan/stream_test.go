//go:build linux

package wan

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// stream sends bytes over TCP from one host to another, and returns how long
// that took, from before the first was written until the last was read: a
// receiver that is late for the first ones makes nothing faster by that.
func stream(t testing.TB, from, to *Host, size int) time.Duration {
	t.Helper()
	var l net.Listener
	if err := to.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", to.Bind, to.StreamPort))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type received struct {
		sum  [sha256.Size]byte
		last time.Time
		err  error
	}
	got := make(chan received, 1)
	go func() {
		var r received
		defer func() { got <- r }()
		var c net.Conn
		if c, r.err = l.Accept(); r.err != nil {
			return
		}
		defer c.Close()
		h := sha256.New()
		var n int64
		n, r.err = io.Copy(h, c)
		if r.last = time.Now(); r.err == nil && n != int64(size) {
			r.err = io.ErrUnexpectedEOF
		}
		r.sum = [sha256.Size]byte(h.Sum(nil))
	}()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	var c net.Conn
	if err := from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", fmt.Sprintf("%s:%d", to.Address, to.StreamPort), time.Minute)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.err != nil || r.sum != sha256.Sum256(data) {
		t.Fatalf("received %x, sent %x, %v", r.sum, sha256.Sum256(data), r.err)
	}
	return r.last.Sub(began)
}

// TestRate: a stream of the kernel's TCP takes the time that the rate says, and
// on a busy machine some times as long, but not eight times.
func TestRate(t *testing.T) {
	t.Parallel()
	n := open(t, two(Namespaces, Link{Delay: 5 * time.Millisecond, Rate: 40_000_000}))
	const size = 5_000_000 // a second
	took := stream(t, n.Hosts()[0], n.Hosts()[1], size)
	r := report(t, n, 0)
	rate := float64(size) * 8 / took.Seconds()
	if rate > 40_000_000 || rate < 6_000_000 {
		t.Errorf("%.1f Mbit/s over a link of 40", rate/1e6)
	}
	if sent := r.Links[0].Traffic.Bytes; sent < size || sent > size*3/2 {
		t.Errorf("%d bytes of a stream of %d passed", sent, size)
	}
}

// TestLossyStream: packets out of which segments are lost arrive whole in the
// end, so they were cut rightly.
func TestLossyStream(t *testing.T) {
	t.Parallel()
	n := open(t, two(Namespaces, Link{Delay: time.Millisecond, Loss: 0.02}))
	stream(t, n.Hosts()[0], n.Hosts()[1], 4<<20)
	if r := report(t, n, 0); r.Links[0].Traffic.Lost < 20 || r.Links[0].Traffic.Segments < 2900 {
		t.Errorf("traffic %+v", r.Links[0].Traffic)
	}
}

// BenchmarkStream shows what a connection gets through 100 ms, 500 Mbit/s.
func BenchmarkStream(b *testing.B) {
	n, err := New(two(Namespaces, Link{Delay: 50 * time.Millisecond, Rate: 500_000_000}))
	if err != nil {
		b.Skip(err)
	}
	defer n.Close()
	for b.Loop() {
		const size = 400 << 20
		took := stream(b, n.Hosts()[0], n.Hosts()[1], size)
		b.ReportMetric(size*8/took.Seconds()/1e6, "Mbit/s")
	}
	r, err := n.Report(0)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(r.RelayCores, "relay-cores")
	b.ReportMetric(float64(r.LateP99)/1e6, "late-p99-ms")
	b.Log(r.Late, r.Delivered, r.LateMax, r.Links[0].Traffic)
}
