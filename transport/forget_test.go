package transport

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Peers that have gone make room for others; one that is in use does not.
func TestPeersAtRestAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		cfg := c.config(1, newRecorder())
		cfg.MaxPeers = 2
		a := c.start(cfg)
		h := newRecorder()
		for n := byte(2); n <= 4; n++ {
			c.start(c.config(n, h))
		}
		send := func(n byte) error {
			err := a.Send(nodeID(n), numbered(1, uint64(n), 8))
			if err == nil {
				await(t, h.messages, "message")
			}
			return err
		}
		for n := byte(2); n <= 3; n++ {
			if err := send(n); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 * forgetAfter { // node 3 stays in use, node 2 does not
			time.Sleep(a.cfg.IdleTimeout / 2)
			if err := send(3); err != nil {
				t.Fatal(err)
			}
		}
		if err := send(4); !errors.Is(err, ErrBusy) {
			t.Fatalf("a third of two peers, with the first only just at rest for long: %v", err)
		}
		time.Sleep(2 * a.cfg.IdleTimeout)
		if err := send(3); err != nil {
			t.Fatal(err)
		}
		if err := send(4); err != nil {
			t.Fatal(err)
		}
		if err := send(3); err != nil || a.findPeer(nodeID(2)) != nil || a.findPeer(nodeID(3)) == nil {
			t.Fatalf("it is not node 2 that was forgotten: %v", err)
		}
		if err := send(2); !errors.Is(err, ErrBusy) {
			t.Fatalf("two peers in use: %v", err)
		}
	})
}
