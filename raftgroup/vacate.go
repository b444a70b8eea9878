package raftgroup

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
)

const (
	// vacateInterval is how often Vacate looks what is left.
	vacateInterval = 100 * time.Millisecond
	// vacateReport is how often it says in the log what is left, and why.
	vacateReport = 10 * time.Second
	// maxWhys bounds the leaders that a node which leaves asks, every
	// leavingTime, what its replicas wait for.
	maxWhys = 8
	// maxTold bounds the replicas of which each report says what they wait for.
	maxTold = 8
)

// VacateError says what was left on a node that was to be vacated.
type VacateError struct {
	Left []GroupStatus // the replicas that are still here
	Also string        // what else is still here, for people; "": nothing
	Err  error         // why it was not waited for longer
}

// Error lists what is left.
func (e *VacateError) Error() string {
	text := fmt.Sprintf("%d replicas are still here", len(e.Left))
	for i, g := range e.Left {
		if i == 3 {
			text += ", …"
			break
		}
		text += fmt.Sprintf(", %s (%s)", g.Group.Structure, g.Role)
		if g.Waits != "" {
			text += " [" + g.Waits + "]"
		}
	}
	if e.Also != "" {
		text += "; " + e.Also
	}
	return text + ": " + e.Err.Error()
}

// Unwrap makes errors.Is see why.
func (e *VacateError) Unwrap() error { return e.Err }

// Vacate has this node's replicas leave their groups: it ends the subscriptions
// here, all but passive ones, as Close does; takes no new replicas, of births
// either; and waits
// until none is left. The leaders do the work, once gossip tells them that this
// node leaves (Node.Leaving), which is the caller's business: they hand over
// the lead, put other voters in the place of those here, remove learners, and
// confirm to each replica that it was removed. Where no node can take a voter's
// place, the group goes on with fewer: with fewer than three after 15 s.
//
// It ends with nil, or with a *VacateError when ctx ends or the host closes: then
// the node takes replicas again, and those that have moved stay where they are.
func (h *Host) Vacate(ctx context.Context) error {
	if !h.leaving.CompareAndSwap(false, true) {
		return fmt.Errorf("vacate: %w", ErrLeaving)
	}
	err := h.vacate(ctx)
	if err != nil {
		h.leaving.Store(false)
	}
	return err
}

func (h *Host) vacate(ctx context.Context) error {
	h.mu.Lock()
	ordered := h.replicasLocked()
	var subs []*Subscription
	for _, s := range h.inOrderLocked() {
		if !s.cfg.Passive && !s.manual {
			subs = append(subs, s)
		}
	}
	h.mu.Unlock()
	h.watch.wakeLeaders(ordered)
	for _, s := range subs {
		s.shut()
	}
	for _, s := range subs {
		if err := h.tasks.Await(ctx, s.ended); err != nil {
			return &VacateError{Left: h.Groups(), Also: h.Unsettled(), Err: err}
		}
	}
	asked, reported, turn, told := time.Time{}, h.cfg.Clock.Now(), 0, 0
	for {
		if h.isVacant() {
			return nil
		}
		if now := h.cfg.Clock.Now(); now.Sub(asked) >= leavingTime {
			asked = now
			h.askForStopped()
			turn = h.askWhy(turn)
		}
		if now := h.cfg.Clock.Now(); now.Sub(reported) >= vacateReport {
			reported = now
			told = h.reportLeft(h.Groups(), told)
		}
		pause, cancel := h.tasks.Within(ctx, vacateInterval)
		_ = h.tasks.Await(pause, nil) // ends with the pause, or with ctx
		cancel()
		switch {
		case ctx.Err() != nil:
			return &VacateError{Left: h.Groups(), Also: h.Unsettled(), Err: context.Cause(ctx)}
		case h.ctx.Err() != nil:
			return &VacateError{Left: h.Groups(), Also: h.Unsettled(), Err: ErrClosed}
		}
	}
}

// isVacant reports whether this node holds no replica, none is about to start
// again, and none is being made for a birth: from then on beginPrepare, which looks under the same lock, refuses.
func (h *Host) isVacant() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.replicasLocked()) > 0 || len(h.preparing) > 0 || h.between.restarting() {
		return false
	}
	// A disk that takes no writes cannot forget them; the groups have.
	return len(h.between) == 0 || h.log.Health() != nil
}

// askForStopped asks for the replicas whose own steps do not: they have
// stopped, or cannot start again yet, or, on a node that leaves, wait for their snapshot.
func (h *Host) askForStopped() {
	h.mu.Lock()
	ordered := h.replicasLocked()
	h.mu.Unlock()
	for _, g := range ordered {
		if st := g.Status(); st.Failed || h.leaving.Load() && st.Role == "waiting for snapshot" {
			members := nodesOf(st.Voters)
			for _, n := range nodesOf(g.genesis.Members) {
				if !slices.Contains(members, n) {
					members = append(members, n)
				}
			}
			h.askStanding(g, members)
		}
	}
	for _, g := range h.restarting() {
		h.askStanding(g, nodesOf(g.genesis.Members))
	}
}

// askWhy asks the leaders of a few of the replicas here, in turn, what they wait
// for before they take their replicas from a node that leaves.
func (h *Host) askWhy(turn int) int {
	h.mu.Lock()
	ordered := h.replicasLocked()
	h.mu.Unlock()
	for range min(maxWhys, len(ordered)) {
		turn++
		if g := ordered[turn%len(ordered)]; !g.Status().IsLeader && !g.Status().Failed {
			h.askStanding(g, nodesOf(g.Status().Voters))
		}
	}
	return turn
}

// reportLeft says in the log what is still on a node that leaves, and of some of
// its replicas, of others each time, why.
func (h *Host) reportLeft(left []GroupStatus, turn int) int {
	h.cfg.Logger.Info("leaving", "replicas still here", len(left), "also", h.Unsettled())
	for range min(maxTold, len(left)) {
		turn++
		g := &left[turn%len(left)]
		h.cfg.Logger.Info("leaving: a replica is still here", "group", g.Group.String(), "role", g.Role, "waits", g.Waits)
	}
	return turn
}

// Leaving reports whether Vacate runs, or has ended well.
func (h *Host) Leaving() bool { return h.leaving.Load() }

// joinableLocked says why no replica of a structure can be got at present.
func (h *Host) joinableLocked(s id.Structure) error {
	switch {
	case h.closed:
		return fmt.Errorf("structure %s: %w", s, ErrClosed)
	case h.leaving.Load():
		return fmt.Errorf("structure %s: %w", s, ErrLeaving)
	}
	return nil
}
