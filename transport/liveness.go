package transport

import (
	"sync"
	"time"
)

// liveness decides when a connection is probed, given up, or closed for want
// of use. It knows no clock: every method is told the time.
type liveness struct {
	interval, stall, idle time.Duration

	mu       sync.Mutex
	used     time.Time // last use
	pinged   time.Time // last ping
	heard    time.Time // last bytes that came, of whatever
	owed     bool      // that ping has no answer yet
	dirty    bool      // used since that ping
	sequence uint64
}

func newLiveness(c *Config, now time.Time) *liveness {
	return &liveness{interval: c.PingInterval, stall: c.StallTimeout, idle: c.IdleTimeout, used: now}
}

// use notes that something was sent, and reports whether wait has to be asked
// again: it is the first use since the last ping.
func (l *liveness) use(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.dirty && !l.owed
	l.used, l.dirty = now, true
	return first
}

// verdict is what liveness asks for.
type verdict int

const (
	carryOn verdict = iota
	sendPing
	giveUp   // a ping is not answered
	shutIdle // not used for long
)

// check tells what to do now. busy says that an answer is waited for, so that
// the connection counts as used. After sendPing, number is the ping's.
func (l *liveness) check(now time.Time, busy bool) (v verdict, number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if busy {
		l.used, l.dirty = now, true
	}
	switch {
	case l.owed:
		if !now.Before(l.giveUpAtLocked()) {
			return giveUp, 0
		}
	case l.dirty:
		if l.sequence == 0 || now.Sub(l.pinged) >= l.interval {
			l.sequence++
			l.pinged, l.owed, l.dirty = now, true, false
			return sendPing, l.sequence
		}
	case now.Sub(l.used) >= l.idle:
		return shutIdle, 0
	}
	return carryOn, 0
}

// giveUpAtLocked is when an unanswered ping ends the patience. The answer may
// stand behind much else, so whatever comes prolongs it.
func (l *liveness) giveUpAtLocked() time.Time {
	if l.heard.After(l.pinged) {
		return l.heard.Add(l.stall)
	}
	return l.pinged.Add(l.stall)
}

// wait tells after how long check should be asked again.
func (l *liveness) wait(now time.Time, busy bool) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.used.Add(l.idle)
	again := l.pinged.Add(l.interval)
	switch {
	case l.owed && !again.After(now):
		next = l.giveUpAtLocked()
	case l.owed || l.dirty || busy:
		next = again
	}
	return max(next.Sub(now), 0)
}

// hear notes that bytes came.
func (l *liveness) hear(now time.Time) {
	l.mu.Lock()
	l.heard = now
	l.mu.Unlock()
}

// pong notes the answer to a ping. It returns the round-trip time.
func (l *liveness) pong(now time.Time, number uint64) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.owed || number != l.sequence {
		return 0, false
	}
	l.owed = false
	return now.Sub(l.pinged), true
}
