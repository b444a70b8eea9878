package transport

import (
	"fmt"
	"time"
)

// backoff keeps a peer that cannot be reached, or that breaks the connections
// which it has let in, from being dialed all the time. It is not safe for
// concurrent use, and knows neither clock nor chance.
type backoff struct {
	min, max  time.Duration
	failures  int // in a row, without a connection that lasted between them
	notBefore time.Time
	fickle    bool  // the last failure was that of a connection that stood
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
	b.fickle = false
	b.err = fmt.Errorf("%w, at the last attempt: %w", ErrPeerDown, err)
	b.notBefore = now.Add(wait/2 + time.Duration(chance*float64(wait/2)))
}

// broke notes that a connection broke soon after it was made.
func (b *backoff) broke(now time.Time, err error, chance float64) {
	b.failed(now, err, chance)
	b.fickle = true
}

// connected notes a handshake that succeeded, whoever dialed: there is nothing
// to wait for any more, unless what went wrong last came after a handshake, too.
// The failures count on until a connection has lasted.
func (b *backoff) connected() {
	if !b.fickle {
		b.notBefore, b.err = time.Time{}, nil
	}
}

// forgive notes a connection that lasted, or another process of the peer.
func (b *backoff) forgive() {
	b.failures, b.notBefore, b.fickle, b.err = 0, time.Time{}, false, nil
}

// allow returns nil if an attempt is due, else ErrPeerDown with the last error.
func (b *backoff) allow(now time.Time) error {
	if b.err == nil || !now.Before(b.notBefore) {
		return nil
	}
	return b.err
}
