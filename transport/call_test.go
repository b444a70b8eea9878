package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
)

func TestCalls(t *testing.T) {
	onBoth(t, func(t *testing.T, c *cluster) {
		h := newRecorder()
		h.onCall = func(_ context.Context, from id.Node, method uint16, request []byte) ([]byte, error) {
			switch method {
			case 1:
				return []byte(fmt.Sprintf("%s %s", from, request)), nil
			case 2:
				return nil, &RemoteError{Code: 42, Text: "no such thing"}
			case 3:
				return nil, fmt.Errorf("wrapped: %w", &RemoteError{Code: 43})
			case 4:
				return nil, errors.New(strings.Repeat("é", maxErrorText))
			case 5:
				return make([]byte, 1<<20+1), nil
			case 6:
				return bytes.Repeat(request, 2), nil
			}
			return nil, nil
		}
		ca, cb := c.config(1, h), c.config(2, h)
		ca.MaxFrame, cb.MaxFrame = 1<<20, 1<<20
		a := c.start(ca)
		c.start(cb)
		for _, to := range []byte{1, 2} { // to itself and to another: no difference
			call := func(method uint16, request []byte) ([]byte, error) {
				return a.Call(t.Context(), nodeID(to), method, request)
			}
			if got, err := call(1, []byte("hi")); err != nil || string(got) != nodeID(1).String()+" hi" {
				t.Errorf("%q, %v", got, err)
			}
			if got, err := call(7, nil); err != nil || len(got) != 0 {
				t.Errorf("%q, %v", got, err)
			}
			var e *RemoteError
			if _, err := call(2, nil); !errors.As(err, &e) || e.Code != 42 || e.Text != "no such thing" {
				t.Error(err)
			}
			if _, err := call(3, nil); !errors.As(err, &e) || e.Code != 43 {
				t.Error(err)
			}
			if _, err := call(4, nil); !errors.As(err, &e) || e.Code != CodeUnspecified || !strings.HasPrefix(e.Text, "éé") {
				t.Error(err)
			}
			if _, err := call(5, nil); !errors.Is(err, ErrTooLarge) {
				t.Error(err)
			}
			if _, err := call(6, make([]byte, 1<<20+1)); !errors.Is(err, ErrTooLarge) || errors.As(err, &e) {
				t.Error(err)
			}
			big := bytes.Repeat([]byte("0123456789abcdef"), 1<<15)
			if got, err := call(6, big); err != nil || !bytes.Equal(got, bytes.Repeat(big, 2)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		}
		if _, err := a.Call(t.Context(), nodeID(9), 1, nil); !errors.Is(err, ErrUnknownNode) {
			t.Error(err)
		}
		var group sync.WaitGroup
		for i := range 200 {
			group.Go(func() {
				want := fmt.Sprint(i)
				if got, err := a.Call(t.Context(), nodeID(2), 6, []byte(want)); err != nil || string(got) != want+want {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		group.Wait()
		if s := a.Stats(); s.Dials != 1 {
			t.Errorf("%d connections were made for all these calls", s.Dials)
		}
	})
}

// The end of the caller's context ends the call at once, and the handler's
// context with it; a deadline travels.
func TestCallEndsWithItsContext(t *testing.T) {
	onBoth(t, func(t *testing.T, c *cluster) {
		h := newRecorder()
		began := make(chan bool, 2) // whether the handler has a deadline
		ended := make(chan error, 2)
		h.onCall = func(ctx context.Context, _ id.Node, method uint16, _ []byte) ([]byte, error) {
			if method == 0 {
				return nil, nil
			}
			_, has := ctx.Deadline()
			began <- has
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}
		a := c.start(c.config(1, h))
		c.start(c.config(2, h))
		for _, to := range []byte{1, 2} {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				await(t, began, "handler")
				cancel()
			}()
			if _, err := a.Call(ctx, nodeID(to), 1, nil); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			await(t, ended, "the handler's end")
			ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
			if _, err := a.Call(ctx, nodeID(to), 1, nil); !errors.Is(err, context.DeadlineExceeded) {
				var e *RemoteError // the handler's clock may be the first
				if !errors.As(err, &e) || e.Code != CodeCanceled {
					t.Fatal(err)
				}
			}
			if !await(t, began, "handler") {
				t.Fatal("the deadline did not travel")
			}
			await(t, ended, "the handler's end")
			cancel()
			if _, err := a.Call(t.Context(), nodeID(to), 0, nil); err != nil {
				t.Fatalf("the connection has suffered: %v", err)
			}
		}
	})
}

// Beyond its share of MaxCalls, a node's call is refused, not queued.
func TestCallsAreBounded(t *testing.T) {
	onBoth(t, func(t *testing.T, c *cluster) {
		h := newRecorder()
		began, free := make(chan struct{}, 2), make(chan struct{})
		h.onCall = func(context.Context, id.Node, uint16, []byte) ([]byte, error) {
			began <- struct{}{}
			<-free
			return nil, nil
		}
		a := c.start(c.config(1, newRecorder()))
		cfg := c.config(2, h)
		cfg.MaxCalls = 4
		c.start(cfg)
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() {
				if _, err := a.Call(t.Context(), nodeID(2), 1, nil); err != nil {
					t.Error(err)
				}
			})
			await(t, began, "handler")
		}
		if _, err := a.Call(t.Context(), nodeID(2), 1, nil); !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
		close(free)
		group.Wait()
	})
}

// A node that dies, or falls silent, during a call ends it with ErrPeerDown. A
// handler that takes its time does not.
func TestCallOutlivesSilenceNotDeath(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		ha, h := newRecorder(), newRecorder()
		began := make(chan struct{}, 1)
		h.onCall = func(ctx context.Context, _ id.Node, method uint16, _ []byte) ([]byte, error) {
			began <- struct{}{}
			timer := time.NewTimer(10 * time.Minute)
			defer timer.Stop()
			select {
			case <-timer.C:
				return []byte("at last"), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		a := c.start(c.config(1, ha))
		c.start(c.config(2, h))
		got, err := a.Call(t.Context(), nodeID(2), 1, nil)
		if err != nil || string(got) != "at last" {
			t.Fatalf("%q, %v", got, err)
		}
		for _, fault := range []func(a, b string){
			network.Partition,
			func(a, b string) { network.Cut(b, a) },
			func(a, b string) { network.Reset(a, b) },
		} {
			<-began
			var start time.Time
			done := make(chan error, 1)
			go func() {
				_, err := a.Call(t.Context(), nodeID(2), 1, nil)
				done <- err
			}()
			<-began
			start = time.Now()
			fault(hostOf(nodeID(1)), hostOf(nodeID(2)))
			err := <-done
			if !errors.Is(err, ErrPeerDown) || time.Since(start) > 2*a.cfg.StallTimeout {
				t.Fatalf("%v after %s", err, time.Since(start))
			}
			network.Heal(hostOf(nodeID(1)), hostOf(nodeID(2)))
			time.Sleep(time.Minute)
			began <- struct{}{}
		}
		<-began
	})
}

// An answer that takes longer than the stall time-out to come over a slow line
// is no stall.
func TestLargeAnswerOnASlowLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		network.SetLatency(hostOf(nodeID(1)), hostOf(nodeID(2)), 500*time.Millisecond) // 1 MiB each
		c := memCluster(t, network)
		a := c.start(c.config(1, newRecorder()))
		c.start(c.config(2, newRecorder()))
		request := make([]byte, 60<<20)
		start := time.Now()
		got, err := a.Call(t.Context(), nodeID(2), 1, request)
		if err != nil || len(got) != len(request) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if d := time.Since(start); d < 2*a.cfg.StallTimeout {
			t.Fatalf("%s is too fast for this test to mean anything", d)
		}
	})
}
