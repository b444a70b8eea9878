package raftgroup

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/wal"
)

// stoppedInterval is how often a host asks what became of replicas that have
// stopped: their groups replace them after Config.ReplaceAfter.
const stoppedInterval = 30 * time.Second

// tickStopped asks, now and then, for the replicas that have stopped: one that was
// replaced is in the way of another on this node. And it looks after the
// subscriptions that wait for a replica.
func (h *Host) tickStopped() {
	now := h.cfg.Clock.Now()
	if h.askedStopped.IsZero() {
		h.askedStopped = now
	}
	if now.Sub(h.askedStopped) >= stoppedInterval {
		h.askedStopped = now
		h.askForStopped()
		h.tendWaiting()
	}
}

// tendWaiting has subscriptions that wait for a replica look again whether they can
// hope for one, and one got for those for which nobody else does: whoever took a
// replica away looks who waits at that moment, and may fail before it has.
func (h *Host) tendWaiting() {
	gone := h.logIsGone()
	h.mu.Lock()
	defer h.mu.Unlock()
	var awaited []id.Structure
	for structure, waiting := range h.waiting {
		for _, s := range waiting {
			s.notify()
		}
		if h.awaitedLocked(structure) && !gone && h.joinableLocked(structure) == nil {
			awaited = append(awaited, structure)
		}
	}
	slices.SortFunc(awaited, func(a, b id.Structure) int { return slices.Compare(a[:], b[:]) }) // a replay must not depend on map order
	for _, structure := range awaited {
		h.beginJoinLocked(structure, id.Node{}, joinWish{wanted: true})
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
	groups := h.replicasLocked()
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
