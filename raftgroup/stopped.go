package raftgroup

import (
	"errors"
	"fmt"
	"time"

	"github.com/copycat-replication/copycat/wal"
)

// stoppedInterval is how often a host asks what became of replicas that have
// stopped: their groups replace them after Config.ReplaceAfter.
const stoppedInterval = 30 * time.Second

// tickStopped asks, now and then, for the replicas that have stopped: one that was
// replaced is in the way of another on this node. And it has subscriptions that
// wait for a replica look again whether they can hope for one.
func (h *Host) tickStopped() {
	now := h.cfg.Clock.Now()
	if h.askedStopped.IsZero() {
		h.askedStopped = now
	}
	if now.Sub(h.askedStopped) >= stoppedInterval {
		h.askedStopped = now
		h.askForStopped()
		h.mu.Lock()
		for _, waiting := range h.waiting {
			for _, s := range waiting {
				s.notify()
			}
		}
		h.mu.Unlock()
	}
}

// logIsGone reports whether the log store has failed for good.
func (h *Host) logIsGone() bool { return errors.Is(h.log.Health(), wal.ErrFailed) }

// tickFailedLog stops all replicas when the log store has failed. Those that
// write hear of it by themselves; one that rests would not, and its group would
// keep a voter that can acknowledge nothing. From then on the host answers no
// pings, so that the others wake the groups that rely on it.
func (h *Host) tickFailedLog() {
	if h.logFailed || !h.logIsGone() {
		return
	}
	h.logFailed = true
	h.mu.Lock()
	groups := h.ordered
	h.mu.Unlock()
	err := fmt.Errorf("%w: %w", ErrGroupFailed, h.log.Health())
	for _, g := range groups {
		g.call(func() {
			if g.rn != nil {
				g.fail(err)
			}
		})
	}
}
