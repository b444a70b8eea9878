package gossip

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxRemembered = 256
	// maxKnownQuarrels is how many refusals are remembered as logged, and how
	// many are logged in quarrelPause: who is refused, and why, is what strangers say.
	maxKnownQuarrels = 256
	quarrelPause     = time.Minute
	maxMoving        = 16
)

// contacts is what a node knows of where its peers may be, beyond memberlist,
// which forgets a dead node within a minute: without this, a partition that is
// longer than that would never heal.
type contacts struct {
	peers []string      // given by the user
	kick  chan struct{} // capacity 1: the contact loop has something to do now
	dirty chan struct{} // capacity 1: addresses to remember may have changed
	hurry chan struct{} // capacity 1: there are conflicts of addresses
	alive atomic.Int64  // live members, self not counted

	// joining, of capacity 1, is full while a contact joins: one at a time, so
	// that two clusters that answer at the same moment are not mixed. It is no
	// mutex, since it is held for as long as memberlist's Join takes.
	joining chan struct{}

	mu       sync.Mutex
	random   *rand.Rand
	live     map[netip.AddrPort]int // addresses of live members
	lost     map[string]time.Time   // addresses of members lost, and when; remembered ones since Start
	mine     map[string]bool        // addresses at which this node itself answered
	conflict bool                   // someone holds our name to be at another address
	moving   map[string]bool        // addresses to which other nodes have moved
	next     int                    // where the next round of contacts begins
	quarrels map[string]quarrel     // refusals that were logged
	cleared  time.Time              // when they were last forgotten
}

func (c *contacts) init(peers, remembered []string, random *rand.Rand, now time.Time) {
	c.peers = peers
	c.kick, c.dirty, c.hurry = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	c.joining = make(chan struct{}, 1)
	c.random = random
	c.live = make(map[netip.AddrPort]int)
	c.lost = make(map[string]time.Time)
	c.mine, c.moving = make(map[string]bool), make(map[string]bool)
	c.quarrels = make(map[string]quarrel)
	for _, address := range remembered {
		if len(c.lost) < maxRemembered && checkAddress(address) == nil {
			c.lost[address] = now
		}
	}
}

func (c *contacts) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// conflicts notes a conflict about our own name, or the address to which another
// node has moved. It runs under memberlist's lock and waits for nothing.
func (c *contacts) conflicts(moved netip.AddrPort) {
	c.mu.Lock()
	if !moved.IsValid() {
		c.conflict = true
	} else if len(c.moving) < maxMoving {
		c.moving[moved.String()] = true
	}
	c.mu.Unlock()
	select {
	case c.hurry <- struct{}{}:
	default:
	}
}

// takeConflicts returns what conflicts noted, and forgets it.
func (c *contacts) takeConflicts() (own bool, moved []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own, moved = c.conflict, slices.Sorted(maps.Keys(c.moving))
	c.conflict = false
	clear(c.moving)
	return own, moved
}

func (c *contacts) addressesChanged() {
	select {
	case c.dirty <- struct{}{}:
	default:
	}
}

// moved takes in that a member appeared, died or moved. The caller holds the
// Gossip's lock; this one is taken under it and over nothing.
func (c *contacts) moved(m *member, wasAlive bool, oldAddress netip.AddrPort, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if wasAlive {
		c.alive.Add(-1)
		if c.live[oldAddress]--; c.live[oldAddress] <= 0 {
			delete(c.live, oldAddress)
		}
	}
	delete(c.lost, oldAddress.String())
	if m.alive {
		c.alive.Add(1)
		c.live[m.address]++
		delete(c.lost, m.address.String())
		return
	}
	if m.identity.leaving {
		return // it does not come back
	}
	c.lost[m.address.String()] = now
	c.boundLost()
}

// boundLost forgets the longest lost address while there are too many.
func (c *contacts) boundLost() {
	for len(c.lost) > maxRemembered {
		var oldest string
		for address, at := range c.lost {
			if oldest == "" || at.Before(c.lost[oldest]) || at.Equal(c.lost[oldest]) && address < oldest {
				oldest = address
			}
		}
		delete(c.lost, oldest)
	}
}

func (c *contacts) expire(now time.Time, forget time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for address, at := range c.lost {
		if now.Sub(at) > forget {
			delete(c.lost, address)
		}
	}
}

// quarrel is a refusal that was logged.
type quarrel struct {
	why string
	at  time.Time
}

// firstRefusal reports whether this is news, for the log: of one that has not
// been refused yet, or for another reason, and not too much of that.
func (c *contacts) firstRefusal(who, why string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, known := c.quarrels[who]
	switch {
	case known && (before.why == why || now.Sub(before.at) < quarrelPause):
		return false
	case !known && len(c.quarrels) >= maxKnownQuarrels:
		if now.Sub(c.cleared) < quarrelPause {
			return false
		}
		clear(c.quarrels)
		c.cleared = now
	}
	c.quarrels[who] = quarrel{why, now}
	return true
}

// addresses returns what to remember: live members first, then the latest lost.
func (c *contacts) addresses() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]string, 0, len(c.live)+len(c.lost))
	for address := range c.live {
		all = append(all, address.String())
	}
	slices.Sort(all)
	all = append(all, c.lostLocked()...)
	all = all[:min(len(all), maxRemembered)]
	slices.Sort(all)
	return all
}

// lostLocked returns the lost addresses, the latest first.
func (c *contacts) lostLocked() []string {
	lost := make([]string, 0, len(c.lost))
	for address := range c.lost {
		if parsed, err := netip.ParseAddrPort(address); err == nil && c.live[parsed] > 0 {
			continue // someone else lives there now
		}
		if !c.mine[address] {
			lost = append(lost, address)
		}
	}
	slices.SortFunc(lost, func(a, b string) int {
		if order := c.lost[b].Compare(c.lost[a]); order != 0 {
			return order
		}
		if a < b {
			return -1
		}
		return 1
	})
	return lost
}

// candidates returns what to contact now: all of it, or for a rejoin the latest
// lost and some of the rest in turn.
func (c *contacts) candidates(limit int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	lost := c.lostLocked()
	all := slices.Clone(c.peers)
	for _, address := range lost {
		if !slices.Contains(all, address) {
			all = append(all, address)
		}
	}
	if len(all) <= limit {
		return all
	}
	picked := slices.Clone(lost[:min(len(lost), limit/2)])
	for range all {
		if len(picked) == limit {
			break
		}
		if address := all[c.next%len(all)]; !slices.Contains(picked, address) {
			picked = append(picked, address)
		}
		c.next++
	}
	return picked
}

// wanted reports whether a resolved address is worth a contact: not our own,
// and not that of a member that is alive.
func (c *contacts) wanted(address netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, live := c.live[address]
	return !live && !c.mine[address.String()]
}

func (c *contacts) markMine(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.mine) < maxRemembered {
		c.mine[address] = true
	}
}

// disown forgets a remembered address that another cluster has now.
func (c *contacts) disown(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, remembered := c.lost[address]; remembered {
		delete(c.lost, address)
		c.addressesChanged()
	}
}

// anyLive returns the address of some live member.
func (c *contacts) anyLive() (netip.AddrPort, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.live) == 0 {
		return netip.AddrPort{}, false
	}
	all := make([]netip.AddrPort, 0, len(c.live))
	for address := range c.live {
		all = append(all, address)
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all[c.random.IntN(len(all))], true
}

// pick draws a number below n.
func (c *contacts) pick(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

// jitter spreads d by a quarter either way.
func (c *contacts) jitter(d time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return d*3/4 + time.Duration(c.random.Int64N(int64(d/2)+1))
}
