package gossip

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// mockNetwork is memberlist's MockNetwork, which may be cut, and which loses
// packets instead of blocking: the mock's channels have no buffer, so that two
// nodes that acknowledge each other's pings at the same time stand still, and
// whoever sends to a node that has shut down stands still for ever.
type mockNetwork struct {
	done chan struct{}

	mu   sync.Mutex
	shut bool
	busy sync.WaitGroup   // sends under way
	free []*mockTransport // made at the start: the mock's maps have no lock
	side map[string]int   // by address
}

const mockTransports = 6

func newMockNetwork(t *testing.T) *mockNetwork {
	n := &mockNetwork{side: make(map[string]int), done: make(chan struct{})}
	var mock memberlist.MockNetwork
	var pumps sync.WaitGroup
	for range mockTransports {
		inner := mock.NewTransport("")
		ip, port, err := inner.FinalAdvertiseAddr("", 0)
		if err != nil {
			t.Fatal(err)
		}
		m := &mockTransport{
			MockTransport: inner, net: n, addr: (&memberlist.Node{Addr: ip, Port: uint16(port)}).Address(),
			packets: make(chan *memberlist.Packet, 256), streams: make(chan net.Conn, 16),
		}
		n.free = append(n.free, m)
		pumps.Add(1)
		go func() {
			defer pumps.Done()
			m.pump()
		}()
	}
	t.Cleanup(func() {
		n.mu.Lock()
		n.shut = true // memberlist's last probes find no network
		n.mu.Unlock()
		n.busy.Wait()
		close(n.done)
		pumps.Wait()
	})
	return n
}

func (n *mockNetwork) transport() *mockTransport {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.free[0]
	n.free = n.free[1:]
	return t
}

// partition puts the given transports on the other side of a cut.
func (n *mockNetwork) partition(transports ...*mockTransport) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.side)
	for _, t := range transports {
		n.side[t.addr] = 1
	}
}

// send reports whether a reaches b; if so, busy.Done is to follow.
func (n *mockNetwork) send(a, b string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.shut || n.side[a] != n.side[b] {
		return false
	}
	n.busy.Add(1)
	return true
}

type mockTransport struct {
	*memberlist.MockTransport
	net     *mockNetwork
	addr    string
	packets chan *memberlist.Packet
	streams chan net.Conn
}

var errCut = errors.New("the network is cut")

// pump takes what arrives, whether or not someone listens.
func (t *mockTransport) pump() {
	for {
		select {
		case <-t.net.done:
			return
		case packet := <-t.MockTransport.PacketCh():
			select {
			case t.packets <- packet:
			default:
			}
		case conn := <-t.MockTransport.StreamCh():
			select {
			case t.streams <- conn:
			default:
				_ = conn.Close()
			}
		}
	}
}

func (t *mockTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *mockTransport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *mockTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (t *mockTransport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if !t.net.send(t.addr, a.Addr) {
		return time.Now(), nil // packets get lost silently
	}
	defer t.net.busy.Done()
	return t.MockTransport.WriteToAddress(b, memberlist.Address{Addr: a.Addr})
}

func (t *mockTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *mockTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if !t.net.send(t.addr, a.Addr) {
		return nil, errCut
	}
	defer t.net.busy.Done()
	return t.MockTransport.DialAddressTimeout(memberlist.Address{Addr: a.Addr}, timeout)
}
