package raftgroup

import (
	"context"
	"io"
	"sync"
	"time"
)

const (
	// moveBurst and moveRefill bound how many replicas the leaders on one node
	// begin to place: that many at once, and then that many a second. A node that
	// dies takes thousands of replicas with it.
	moveBurst  = 16
	moveRefill = 8
	// maxPlaced bounds the replicas that this node is getting because leaders
	// asked for it, at the same time.
	maxPlaced = 8
)

// tokens is a bucket that refills by time. The zero value is full.
type tokens struct {
	mu   sync.Mutex
	used float64 // of burst, as of at
	at   time.Time
}

// take takes a token, if there is one.
func (t *tokens) take(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.at.IsZero() {
		t.used = max(0, t.used-moveRefill*max(0, now.Sub(t.at).Seconds()))
	}
	t.at = now
	if t.used+1 > moveBurst {
		return false
	}
	t.used++
	return true
}

// pacer spreads bytes over time: at most rate a second, after a burst of what
// a tenth of a second allows.
type pacer struct {
	rate int64
	mu   sync.Mutex
	free time.Time // when the next byte may go
}

// reserve books n bytes, and says how long to wait before they are sent.
func (p *pacer) reserve(now time.Time, n int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if earliest := now.Add(-100 * time.Millisecond); p.free.Before(earliest) {
		p.free = earliest
	}
	wait := p.free.Sub(now)
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	return max(wait, 0)
}

// pace waits until n more bytes of snapshots may pass in one direction.
func (h *Host) pace(ctx context.Context, p *pacer, n int) error {
	if p.rate < 0 {
		return nil
	}
	wait := p.reserve(h.cfg.Clock.Now(), n)
	if wait == 0 {
		return nil
	}
	waited, cancel := h.tasks.Within(ctx, wait)
	defer cancel()
	_ = h.tasks.Await(waited, nil) // ends with the time, or with ctx
	return context.Cause(ctx)
}

// pacedReader and pacedWriter let a snapshot's bytes pass no faster than the
// host's bandwidth for them, so that commits have room beside them.
type pacedReader struct {
	ctx  context.Context
	h    *Host
	from io.Reader
}

func (r *pacedReader) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	if n > 0 {
		if werr := r.h.pace(r.ctx, &r.h.inbound, n); werr != nil {
			return n, werr
		}
	}
	return n, err
}

type pacedWriter struct {
	ctx context.Context
	h   *Host
	to  io.Writer
}

func (w *pacedWriter) Write(b []byte) (int, error) {
	if err := w.h.pace(w.ctx, &w.h.outbound, len(b)); err != nil {
		return 0, err
	}
	return w.to.Write(b)
}
