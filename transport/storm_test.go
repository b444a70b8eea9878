package transport

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fickle listens as a node that lets everybody in and breaks each connection
// right after the handshake. It returns how many there were.
func fickle(t *testing.T, c *cluster, n byte) *atomic.Int64 {
	t.Helper()
	l, err := c.network(nodeID(n)).Listen(hostOf(nodeID(n)) + ":0")
	if err != nil {
		t.Fatal(err)
	}
	c.locate(nodeID(n), l.Addr().String())
	var met atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			me := identity{cluster: clusterID(1), node: nodeID(n), incarnation: 1}
			if _, err := me.acceptHandshake(conn, func(stranger) error { return nil }); err == nil {
				met.Add(1)
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return &met
}

// A peer that lets a node in and then breaks the connection, again and again
// (another version, a broken middlebox, a process that dies of what it is sent),
// is dialed ever more rarely, whatever it is dialed for.
func TestNoStormAtAPeerThatBreaksConnections(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(a *Transport){
		"messages": func(a *Transport) { _ = a.Send(nodeID(2), numbered(1, 1, 8)) },
		"urgent":   func(a *Transport) { _ = a.Send(nodeID(2), Message{Group: groupID(1), Urgent: true}) },
		"calls":    func(a *Transport) { _, _ = a.Call(context.Background(), nodeID(2), 1, nil) },
		"fetches": func(a *Transport) {
			if r, err := a.Fetch(context.Background(), nodeID(2), nil); err == nil {
				_, _ = io.ReadAll(r)
				r.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := memCluster(t, NewMemNetwork())
				h := newRecorder()
				h.events = make(chan event, 1<<16) // or a storm would block
				a := c.start(c.config(1, h))
				met := fickle(t, c, 2)
				for range 6000 {
					use(a)
					time.Sleep(10 * time.Millisecond)
				}
				// A minute: some doublings, and then one each second or two.
				if n := met.Load(); n < 20 || n > 90 {
					t.Errorf("%d connections in a minute", n)
				}
				if n := len(h.events); n > 2*90 {
					t.Errorf("%d reports of a peer that comes and goes", n)
				}
			})
		})
	}
}

// The same while the peer dials as well: that it is there, and can connect, does
// not say that its connections last.
func TestNoStormBetweenTwoThatBreakConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := memCluster(t, NewMemNetwork())
		h := newRecorder()
		h.events = make(chan event, 1<<16) // or a storm would block
		a := c.start(c.config(1, h))
		met := fickle(t, c, 2)
		me := identity{cluster: clusterID(1), node: nodeID(2), incarnation: 1}
		for range 6000 {
			conn, err := c.network(nodeID(2)).Dial(t.Context(), a.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := me.dialHandshake(conn, nodeID(1), purposeMessages, time.Minute); err != nil && !errors.Is(err, ErrBusy) {
				t.Fatal(err)
			}
			conn.Close()
			_ = a.Send(nodeID(2), numbered(1, 1, 8))
			time.Sleep(10 * time.Millisecond)
		}
		if n := met.Load(); n < 20 || n > 90 {
			t.Errorf("%d connections in a minute", n)
		}
		if n := len(h.events); n < 40 || n > 4*90 {
			t.Errorf("%d reports of a peer that comes and goes", n)
		}
	})
}

// A node whose address changes while it is dialed, because a machine has taken its
// place and nobody answers at the old address, is dialed at the new one.
func TestDialFollowsAPeerThatMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		a := c.start(c.config(1, newRecorder()))
		c.start(c.config(2, newRecorder()))
		network.Partition(hostOf(nodeID(1)), hostOf(nodeID(2)))
		if err := a.Send(nodeID(2), numbered(1, 1, 8)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		h := newRecorder()
		cfg := c.config(2, h)
		cfg.Incarnation, cfg.Network, cfg.BindAddress = 2, network.Host("elsewhere"), "elsewhere"
		c.start(cfg)
		moved := time.Now()
		if m := await(t, h.messages, "message"); number(m) != 1 || time.Since(moved) > 2*moveCheck {
			t.Errorf("message %d after %s", number(m), time.Since(moved))
		}
		if _, err := a.Call(t.Context(), nodeID(2), 1, nil); err != nil {
			t.Error(err)
		}
	})
}

// A new process of such a peer is not made to pay for the old one, and a
// connection that has lasted ends the distrust.
func TestDistrustEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		h := newRecorder()
		h.events = make(chan event, 1<<16) // or a storm would block
		a := c.start(c.config(1, h))
		met := fickle(t, c, 2)
		for range 6000 {
			_ = a.Send(nodeID(2), numbered(1, 1, 8))
			time.Sleep(10 * time.Millisecond)
		}
		hb := newRecorder()
		cfg := c.config(2, hb)
		cfg.Incarnation = 2
		b := c.start(cfg)
		if err := b.Send(nodeID(1), numbered(1, 2, 8)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := a.Send(nodeID(2), numbered(1, 3, 8)); err != nil {
			t.Fatalf("a later process is not dialed, after %d connections with an earlier one: %v", met.Load(), err)
		}
		if m := await(t, hb.messages, "message"); number(m) != 3 {
			t.Fatal(m)
		}
		time.Sleep(a.cfg.BackoffMax)
		network.Reset(hostOf(nodeID(1)), hostOf(nodeID(2)))
		synctest.Wait()
		if err := a.Send(nodeID(2), numbered(1, 4, 8)); err != nil {
			t.Fatalf("a connection that lasted is not made again at once: %v", err)
		}
		if m := await(t, hb.messages, "message"); number(m) != 4 {
			t.Fatal(m)
		}
	})
}

// A host that opens more connections than may be without a handshake cuts off its
// own, and not the slow handshake of somebody far away.
func TestFloodOfConnectionsCutsItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		cfg := c.config(1, newRecorder())
		cfg.MaxHandshakes = 8
		a := c.start(cfg)
		far := rawDial(t, a, network.Host("far"))
		synctest.Wait()
		for range 100 {
			rawDial(t, a, network.Host("stranger"))
			synctest.Wait()
		}
		time.Sleep(a.cfg.HandshakeTimeout / 2)
		me := identity{cluster: clusterID(1), node: nodeID(9), incarnation: 1}
		if _, err := me.dialHandshake(far, nodeID(1), purposeMessages, time.Minute); err != nil {
			t.Error(err)
		}
	})
}
