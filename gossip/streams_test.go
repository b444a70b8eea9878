package gossip

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// Strangers who open streams and say nothing keep the node neither from opening
// its own nor from taking those of others: the oldest are cut.
func TestSilentStreamsDoNotShutANodeOff(t *testing.T) {
	t.Parallel()
	s, err := listen("127.0.0.1", 0, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan string, 4*maxStreams)
	done := make(chan struct{})
	go func() { // as memberlist: it reads until the stream ends, and closes it
		defer close(done)
		for {
			select {
			case conn := <-s.StreamCh():
				came <- conn.RemoteAddr().String()
				go func() {
					_, _ = conn.Read(make([]byte, 1))
					_ = conn.Close()
				}()
			case <-s.ctx.Done():
				return
			}
		}
	}()
	defer func() {
		if err := s.Shutdown(); err != nil {
			t.Error(err)
		}
		<-done
	}()
	address := s.tcp.Addr().String()
	connect := func() net.Conn {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		for {
			select {
			case who := <-came:
				if who == conn.LocalAddr().String() {
					return conn
				}
			case <-time.After(patience):
				t.Fatal("a stream is not taken")
			}
		}
	}
	first := connect()
	for range maxStreams + 10 {
		connect()
	}
	_ = first.SetReadDeadline(time.Now().Add(patience))
	if _, err := first.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the oldest stream still stands: %v", err)
	}
	own, err := s.DialAddressTimeout(memberlist.Address{Addr: address}, patience)
	if err != nil {
		t.Fatalf("strangers keep the node from speaking: %v", err)
	}
	_ = own.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.inbound) > maxStreams || len(s.dialed) > 0 {
		t.Errorf("%d streams of others, %d of ours", len(s.inbound), len(s.dialed))
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}
