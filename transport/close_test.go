package transport

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// Close ends everything that is in flight, waits for it, and frees the port.
func TestCloseWithEverythingInFlight(t *testing.T) {
	onBoth(t, func(t *testing.T, c *cluster) {
		h := newRecorder()
		var working atomic.Int64
		h.onBatch = func(id.Node, []Message) {}
		h.onCall = func(ctx context.Context, _ id.Node, _ uint16, _ []byte) ([]byte, error) {
			working.Add(1)
			defer working.Add(-1)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		h.onStream = func(ctx context.Context, _ id.Node, _ []byte, w io.Writer) error {
			working.Add(1)
			defer working.Add(-1)
			for {
				if _, err := w.Write(make([]byte, 10_000)); err != nil {
					return err
				}
			}
		}
		a, b := c.start(c.config(1, h)), c.start(c.config(2, h))
		all := []*Transport{a, b}
		stop := make(chan struct{})
		var group sync.WaitGroup
		for i, tr := range all {
			to := nodeID(byte(2 - i))
			began := make(chan struct{}, 1)
			group.Go(func() {
				for n := uint64(0); ; n++ {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
					for range 20 {
						_ = tr.Send(to, numbered(1, n, 100_000))
					}
				}
			})
			for _, target := range []id.Node{to, tr.cfg.Node} {
				for range 5 {
					group.Go(func() {
						if _, err := tr.Call(context.Background(), target, 1, nil); err == nil {
							t.Error("a call that cannot end has ended")
						}
					})
				}
				r, err := tr.Fetch(context.Background(), target, nil)
				if err != nil {
					t.Fatal(err)
				}
				group.Go(func() {
					defer r.Close()
					first := true
					b := make([]byte, 1000)
					for {
						if _, err := io.ReadFull(r, b); err != nil {
							if err == io.EOF || err == io.ErrUnexpectedEOF {
								t.Errorf("a stream without an end has ended: %v", err)
							}
							return
						}
						if first && target == to {
							began <- struct{}{}
						}
						first = false
					}
				})
			}
			await(t, began, "a stream")
		}
		for _, tr := range all {
			closeTransport(t, tr)
			closeTransport(t, tr) // again: no harm
			if _, err := tr.Call(context.Background(), nodeID(1), 1, nil); err == nil {
				t.Error("a call after close")
			}
			if _, err := tr.Fetch(context.Background(), nodeID(2), nil); err == nil {
				t.Error("a fetch after close")
			}
			again, err := tr.cfg.Network.Listen(tr.Addr().String())
			if err != nil {
				t.Errorf("the port is not free: %v", err)
			} else {
				again.Close()
			}
		}
		close(stop)
		group.Wait()
		if n := working.Load(); n != 0 {
			t.Errorf("%d handlers are still at work after Close", n)
		}
	})
}
