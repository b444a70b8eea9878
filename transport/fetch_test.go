package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
)

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
