package transport

import (
	"fmt"
	"time"
)

// backoff keeps a peer that cannot be reached from being dialed all the time.
// It is not safe for concurrent use, and knows neither clock nor chance.
type backoff struct {
	min, max  time.Duration
	failures  int
	notBefore time.Time
	err       error // of allow, made once: it may be asked for every message
}

// failed notes a failed attempt. chance, in [0, 1), spreads the next ones:
// half of the wait is random.
func (b *backoff) failed(now time.Time, err error, chance float64) {
	wait := b.max
	if b.failures < 32 && b.min<<b.failures > 0 {
		wait = min(wait, b.min<<b.failures)
	}
	b.failures++
	b.err = fmt.Errorf("%w, at the last attempt: %w", ErrPeerDown, err)
	b.notBefore = now.Add(wait/2 + time.Duration(chance*float64(wait/2)))
}

func (b *backoff) succeeded() { b.failures, b.notBefore, b.err = 0, time.Time{}, nil }

// allow returns nil if an attempt is due, else ErrPeerDown with the last error.
func (b *backoff) allow(now time.Time) error {
	if b.err == nil || !now.Before(b.notBefore) {
		return nil
	}
	return b.err
}
