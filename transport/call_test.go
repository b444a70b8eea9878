package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
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

func TestFetch(t *testing.T) {
	onBoth(t, func(t *testing.T, c *cluster) {
		data := bytes.Repeat([]byte("all the bytes of a snapshot "), 200_000)
		h := newRecorder()
		h.onStream = func(_ context.Context, from id.Node, request []byte, w io.Writer) error {
			if from != nodeID(1) {
				t.Errorf("from %s", from)
			}
			switch string(request) {
			case "whole":
				_, err := io.Copy(w, bytes.NewReader(data))
				return err
			case "empty":
				return nil
			case "typed":
				_, err := w.Write(data[:1000])
				return errors.Join(err, &RemoteError{Code: 7, Text: "bad block"})
			}
			return errors.New("no such file")
		}
		ca, cb := c.config(1, h), c.config(2, h)
		cb.Compress = func(id.Node) bool { return true }
		a := c.start(ca)
		c.start(cb)
		for _, to := range []byte{1, 2} {
			for request, want := range map[string]int{"whole": len(data), "empty": 0, "typed": 1000, "none": 0} {
				r, err := a.Fetch(t.Context(), nodeID(to), []byte(request))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(r)
				if !bytes.Equal(got, data[:want]) {
					t.Errorf("%s: %d bytes, want %d", request, len(got), want)
				}
				var e *RemoteError
				switch {
				case request == "typed" && (!errors.As(err, &e) || e.Code != 7),
					request == "none" && (!errors.As(err, &e) || e.Text != "no such file"),
					(request == "whole" || request == "empty") && err != nil:
					t.Errorf("%s from %d: %v", request, to, err)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		if _, err := a.Fetch(t.Context(), nodeID(9), nil); !errors.Is(err, ErrUnknownNode) {
			t.Error(err)
		}
	})
}

// A stream may take any time as long as something moves, on either side.
func TestFetchSlowly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := memCluster(t, NewMemNetwork())
		h := newRecorder()
		h.onStream = func(ctx context.Context, _ id.Node, _ []byte, w io.Writer) error {
			for range 20 {
				timer := time.NewTimer(30 * time.Second)
				select {
				case <-timer.C:
				case <-ctx.Done():
					timer.Stop()
					return ctx.Err()
				}
				if _, err := w.Write(make([]byte, memCapacity)); err != nil {
					return err
				}
			}
			return nil
		}
		a := c.start(c.config(1, newRecorder()))
		c.start(c.config(2, h))
		r, err := a.Fetch(t.Context(), nodeID(2), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		total := 0
		for b := make([]byte, memCapacity/2); ; time.Sleep(25 * time.Second) {
			n, err := io.ReadFull(r, b)
			total += n
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%v after %d bytes", err, total)
			}
		}
		if total != 20*memCapacity {
			t.Fatalf("%d bytes", total)
		}
	})
}

// A stream that is cut in the middle never looks whole, whoever cuts it.
func TestFetchCut(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(network *MemNetwork, cancel func(), from *Transport) error{
		"reset":     func(n *MemNetwork, _ func(), _ *Transport) error { n.Reset("host1", "host2"); return nil },
		"partition": func(n *MemNetwork, _ func(), _ *Transport) error { n.Partition("host1", "host2"); return nil },
		"context":   func(_ *MemNetwork, cancel func(), _ *Transport) error { cancel(); return context.Canceled },
		"close":     func(_ *MemNetwork, _ func(), from *Transport) error { return from.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				network := NewMemNetwork()
				network.SetLatency("host1", "host2", time.Millisecond)
				c := memCluster(t, network)
				h := newRecorder()
				ended := make(chan error, 1)
				h.onStream = func(ctx context.Context, _ id.Node, _ []byte, w io.Writer) error {
					for {
						if _, err := w.Write(make([]byte, 100_000)); err != nil {
							ended <- err
							return err
						}
					}
				}
				a := c.start(c.config(1, newRecorder()))
				b := c.start(c.config(2, h))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r, err := a.Fetch(ctx, nodeID(2), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if _, err := io.CopyN(io.Discard, r, 1_000_000); err != nil {
					t.Fatal(err)
				}
				want := cut(network, cancel, b)
				n, err := io.Copy(io.Discard, r)
				if !errors.Is(err, ErrCut) || want != nil && !errors.Is(err, want) {
					t.Fatalf("%d bytes more, then %v", n, err)
				}
				if _, again := r.Read(make([]byte, 1)); again != err {
					t.Fatalf("then %v", again)
				}
				await(t, ended, "the handler's end")
			})
		})
	}
}

// A stream whose end does not fit what came before it is not whole.
func TestFetchChecksTheEnd(t *testing.T) {
	t.Parallel()
	c := tcpCluster(t)
	a := c.start(c.config(1, newRecorder()))
	l, err := TCP{}.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c.locate(nodeID(2), l.Addr().String())
	for _, test := range []struct {
		total uint64
		want  error
	}{{4, io.EOF}, {5, ErrCut}} {
		served := make(chan error, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				served <- err
				return
			}
			defer conn.Close()
			me := identity{cluster: clusterID(1), node: nodeID(2), incarnation: 1}
			if _, err = me.acceptHandshake(conn, func(stranger) error { return nil }); err == nil {
				b := appendFrame(nil, frameData, []byte("data"))
				_, err = conn.Write(appendFrame(b, frameEnd, binary.LittleEndian.AppendUint64([]byte{outcomeFine}, test.total)))
			}
			_, _ = io.Copy(io.Discard, conn)
			served <- err
		}()
		r, err := a.Fetch(t.Context(), nodeID(2), nil)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		if n, err := r.Read(b); err != nil || string(b[:n]) != "data" {
			t.Fatalf("%q, %v", b[:n], err)
		}
		if _, err := r.Read(b); !errors.Is(err, test.want) {
			t.Errorf("%v, want %v", err, test.want)
		}
		r.Close()
		if err := await(t, served, "the listener"); err != nil {
			t.Fatal(err)
		}
	}
}

// Who closes the reader ends the handler, even one that writes nothing.
func TestFetchReaderGivesUp(t *testing.T) {
	onBoth(t, func(t *testing.T, c *cluster) {
		h := newRecorder()
		ended := make(chan struct{}, 2)
		h.onStream = func(ctx context.Context, _ id.Node, request []byte, w io.Writer) error {
			_, err := w.Write([]byte("first"))
			<-ctx.Done()
			ended <- struct{}{}
			return err
		}
		cfg := c.config(2, h)
		cfg.MaxFetches = 1
		a := c.start(c.config(1, h))
		c.start(cfg)
		for _, to := range []byte{1, 2} {
			r, err := a.Fetch(t.Context(), nodeID(to), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			if to == 2 {
				busy, err := a.Fetch(t.Context(), nodeID(to), nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadAll(busy); !errors.Is(err, ErrBusy) {
					t.Fatalf("a second stream, where one is allowed: %v", err)
				}
				busy.Close()
			}
			r.Close()
			await(t, ended, "the handler's end")
			if _, err := r.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Fatalf("read after close: %v", err)
			}
		}
	})
}

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
