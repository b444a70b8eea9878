package transport

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/copycat-replication/copycat/id"
)

// One node whose calls hang, and that asks for more and more, does not keep the
// others' from being answered.
func TestOneNodeDoesNotTakeAllCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := memCluster(t, NewMemNetwork())
		h := newRecorder()
		h.onCall = func(ctx context.Context, from id.Node, _ uint16, _ []byte) ([]byte, error) {
			if from == nodeID(1) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return []byte("answer"), nil
		}
		greedy := c.start(c.config(1, newRecorder()))
		cfg := c.config(2, h)
		cfg.MaxCalls = 4
		c.start(cfg)
		other := c.start(c.config(3, newRecorder()))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		busy := make(chan error, 8)
		for range cap(busy) {
			go func() {
				_, err := greedy.Call(ctx, nodeID(2), 1, nil)
				busy <- err
			}()
		}
		synctest.Wait()
		for range 100 {
			if answer, err := other.Call(t.Context(), nodeID(2), 1, nil); err != nil || string(answer) != "answer" {
				t.Fatalf("%q, %v", answer, err)
			}
		}
		refused := 0
		for len(busy) > 0 {
			if err := <-busy; !errors.Is(err, ErrBusy) {
				t.Fatal(err)
			}
			refused++
		}
		if refused != cap(busy)-cfg.MaxCalls/2 {
			t.Errorf("%d calls of one node were refused", refused)
		}
	})
}

// Requests that are large do not take memory without a bound, and small ones have
// room beside them.
func TestBytesOfRequestsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := memCluster(t, NewMemNetwork())
		h := newRecorder()
		h.onCall = func(ctx context.Context, from id.Node, _ uint16, _ []byte) ([]byte, error) {
			if from == nodeID(1) {
				<-ctx.Done()
			}
			return nil, ctx.Err()
		}
		greedy := c.start(c.config(1, newRecorder()))
		cfg := c.config(2, h)
		cfg.MaxFrame = 1 << 20
		b := c.start(cfg)
		other := c.start(c.config(3, newRecorder()))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		busy := make(chan error, 20)
		for range cap(busy) {
			go func() {
				_, err := greedy.Call(ctx, nodeID(2), 1, make([]byte, cfg.MaxFrame))
				busy <- err
			}()
		}
		synctest.Wait()
		if n := len(busy); n != cap(busy)-requestFrames/2 {
			t.Errorf("%d of %d large requests were refused", n, cap(busy))
		}
		for range requestFrames {
			if _, err := other.Call(t.Context(), nodeID(2), 1, make([]byte, cfg.MaxFrame)); err != nil {
				t.Error(err)
			}
		}
		cancel()
		synctest.Wait()
		b.callBytes.mu.Lock()
		defer b.callBytes.mu.Unlock()
		if b.callBytes.taken != 0 || len(b.callBytes.by) != 0 {
			t.Errorf("%d bytes are counted when nothing is under way", b.callBytes.taken)
		}
	})
}

// One node that does not read the streams it has asked for leaves room for
// others, and connections that ask for nothing are bounded, too.
func TestOneNodeDoesNotTakeAllStreams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		h := newRecorder()
		h.onStream = func(_ context.Context, from id.Node, _ []byte, w io.Writer) error {
			_, err := w.Write(make([]byte, 4*memCapacity))
			return err
		}
		greedy := c.start(c.config(1, newRecorder()))
		cfg := c.config(2, h)
		cfg.MaxFetches = 4
		b := c.start(cfg)
		other := c.start(c.config(3, newRecorder()))
		for range 8 {
			r, err := greedy.Fetch(t.Context(), nodeID(2), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
		}
		synctest.Wait()
		for range 3 {
			r, err := other.Fetch(t.Context(), nodeID(2), nil)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != 4*memCapacity {
				t.Fatalf("%d bytes, %v", n, err)
			}
			r.Close()
			synctest.Wait()
		}
		for range 10 * cfg.MaxFetches {
			rawNode(t, b, network.Host("stranger"), purposeFetch, 1)
		}
		synctest.Wait()
		b.mu.Lock()
		open := len(b.conns)
		b.mu.Unlock()
		if open > 10+fetchConns/2*cfg.MaxFetches {
			t.Errorf("%d connections are open", open)
		}
	})
}
