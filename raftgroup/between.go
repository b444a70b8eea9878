package raftgroup

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/wal"
)

const (
	// erasePause is how long the host waits before it asks again for the removal
	// of a log that a full disk has refused.
	erasePause    = 500 * time.Millisecond
	maxErasePause = 10 * time.Second
)

// between holds the replicas that are off the host's lists while the log store
// still has them: their logs, and files, are being removed, or they are about to
// start again. Until that is done no other replica of their structure is
// made, or the next start would find two of one group. A full disk can make it
// last. The host's mu guards it.
type between map[*Group]lot

// lot is what is to become of a replica that is between.
type lot uint8

const (
	lotGoes   lot = iota + 1 // its log and its files are being removed
	lotWaits                 // it is to start again, and is not being started just now
	lotStarts                // it is being started
	lotDoomed                // likewise, and its group has said since that it was removed
)

func (b between) of(s id.Structure) bool {
	for g := range b {
		if g.key.Structure == s {
			return true
		}
	}
	return false
}

// restarting reports whether any is about to start again.
func (b between) restarting() bool {
	for _, l := range b {
		if l != lotGoes {
			return true
		}
	}
	return false
}

// takeOff takes a replica off the host's lists, in its last step; false: that was
// another one, and this is a call which came too late for it.
func (h *Host) takeOff(g *Group, again bool) bool {
	if g.retired {
		return false
	}
	h.mu.Lock()
	h.between[g] = lotGoes
	if again {
		h.between[g] = lotWaits
	}
	h.mu.Unlock()
	h.drop(g)
	g.retire()
	h.watch.wake(g)
	h.asleep(g)
	return true
}

// settled ends what takeOff has begun.
func (h *Host) settled(g *Group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.between, g)
}

// isRestarting reports whether a replica stands still because it is about to
// start again.
func (h *Host) isRestarting(key id.Group, r id.Replica) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for g, l := range h.between {
		if l != lotGoes && g.key == key && g.self == r {
			return true
		}
	}
	return false
}

// restarting lists the replicas that are about to start again.
func (h *Host) restarting() []*Group {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*Group
	for g, l := range h.between {
		if l != lotGoes {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b *Group) int { return cmp.Compare(a.local, b.local) }) // a replay must not depend on map order
	return out
}

// mayErase reports whether the caller is to remove what is left of a replica that has
// been taken off before. If not, it is being removed, or has been; or it was being
// started again, and openAgain sees to it; or it runs again, as another Group under
// which the log must not go.
func (h *Host) mayErase(g *Group) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch h.between[g] {
	case lotWaits:
		h.between[g] = lotGoes
		return true
	case lotStarts:
		h.between[g] = lotDoomed
	}
	return false
}

// beginAgain begins to start a replica again; false: it is to go instead.
func (h *Host) beginAgain(g *Group) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.between[g] != lotWaits {
		return false
	}
	h.between[g] = lotStarts
	return true
}

// endAgain ends what beginAgain has begun; false: the replica is to go.
func (h *Host) endAgain(g *Group, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.between[g] == lotDoomed:
		h.between[g] = lotGoes
		return false
	case err == nil:
		delete(h.between, g)
	default:
		h.between[g] = lotWaits
	}
	return true
}

// hereOrBetween finds the replica of a structure that is here, or says that one
// is between.
func (h *Host) hereOrBetween(s id.Structure) (*Group, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.between.of(s) {
		return nil, fmt.Errorf("structure %s: the replica here is still being removed, or is about to start again", s)
	}
	return h.current[s], nil
}

// erase removes the log and the snapshots of a replica that takeOff has taken
// off. After an error because of a full disk it goes on beside the caller, until
// there is room.
func (h *Host) erase(g *Group) error {
	g.files.gone.Store(true)
	err := h.write(wal.Update{Group: g.local, Remove: true})
	if errors.Is(err, wal.ErrDiskFull) && h.spawn(func() { h.eraseLater(g) }) {
		return fmt.Errorf("remove replica %d: not before there is room: %w", g.local, err)
	}
	defer h.settled(g) // with its files: whoever leaves waits for them too
	if err != nil {
		return fmt.Errorf("remove replica %d: %w", g.local, err)
	}
	if err := h.snaps.RemoveGroup(g.local); err != nil {
		return fmt.Errorf("remove snapshots of replica %d: %w", g.local, err)
	}
	return nil
}

func (h *Host) eraseLater(g *Group) {
	for pause := erasePause; ; pause = min(2*pause, maxErasePause) {
		if !h.sleep(pause) {
			return // the next start finds it, and asks its group again
		}
		err := h.write(wal.Update{Group: g.local, Remove: true})
		if errors.Is(err, wal.ErrDiskFull) {
			continue
		}
		if err == nil {
			err = h.snaps.RemoveGroup(g.local)
		}
		h.settled(g)
		if err != nil {
			g.log.Error("what is left of a removed replica stays until the next start", "error", err)
			return
		}
		g.log.Info("removed what was left of a replica, now that there is room")
		return
	}
}

// openAgain starts a replica again that takeOff has taken off: it tries until it
// has, or the log takes nothing any more, or the host closes, or the group has
// said meanwhile that it was removed.
func (h *Host) openAgain(g *Group, behind SnapshotRef) error {
	for pause := mendPause; h.beginAgain(g); pause = min(2*pause, maxMendPause) {
		now, err := h.startAgain(g, behind)
		if !h.endAgain(g, err) {
			return h.goAfterAll(g, now)
		}
		if err == nil || h.logIsGone() || errors.Is(err, wal.ErrClosed) {
			return err
		}
		g.log.Warn("replica does not start again yet", "error", err)
		if !h.sleep(pause) {
			return err
		}
		// The log may want what it has refused of this group first. Who starts
		// over from the log's state does not owe that any more.
		if _, err := h.log.State(g.local); err != nil {
			g.log.Warn("state of a replica that is to start again is not read", "error", err)
		}
	}
	return nil
}

// goAfterAll removes a replica that was doomed while it was being started again; now
// is what it runs as, nil: it does not.
func (h *Host) goAfterAll(g, now *Group) (err error) {
	if now == nil {
		err = h.erase(g)
	} else {
		_, err = h.remove(h.ctx, now, nil)
		h.settled(g)
	}
	h.joinAgain(g.key.Structure, id.Node{})
	return err
}
