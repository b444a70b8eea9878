package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/copycat-replication/copycat/id"
)

const (
	maxRemembered    = 256
	maxPerName       = 16 // addresses of one host name that are tried at a time
	atOnce           = 8  // addresses contacted at the same time
	perRejoin        = 4  // addresses contacted per rejoin interval
	maxKnownQuarrels = 1024
)

// contacts is what a node knows of where its peers may be, beyond memberlist,
// which forgets a dead node within a minute: without this, a partition that is
// longer than that would never heal.
type contacts struct {
	peers    []string      // given by the user
	kick     chan struct{} // capacity 1: the contact loop has something to do now
	dirty    chan struct{} // capacity 1: addresses to remember may have changed
	conflict atomic.Bool   // someone holds our name to be at another address
	alive    atomic.Int64  // live members, self not counted

	// joining lets one contact at a time join, so that two clusters that answer
	// at the same moment are not mixed. It is held over memberlist's Join, and
	// waited for by nobody but contacts.
	joining sync.Mutex

	mu       sync.Mutex
	random   *rand.Rand
	live     map[netip.AddrPort]int // addresses of live members
	lost     map[string]time.Time   // addresses of members lost, and when; remembered ones since Start
	mine     map[string]bool        // addresses at which this node itself answered
	next     int                    // where the next round of contacts begins
	quarrels map[string]string      // refusals that were logged
}

func (c *contacts) init(peers, remembered []string, random *rand.Rand, now time.Time) {
	c.peers = peers
	c.kick, c.dirty = make(chan struct{}, 1), make(chan struct{}, 1)
	c.random = random
	c.live = make(map[netip.AddrPort]int)
	c.lost = make(map[string]time.Time)
	c.mine = make(map[string]bool)
	c.quarrels = make(map[string]string)
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

// firstRefusal reports whether this is news, for the log.
func (c *contacts) firstRefusal(who, why string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.quarrels[who] == why || len(c.quarrels) >= maxKnownQuarrels {
		return false
	}
	c.quarrels[who] = why
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

// jitter spreads d by a quarter either way.
func (c *contacts) jitter(d time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return d*3/4 + time.Duration(c.random.Int64N(int64(d/2)+1))
}

var (
	errItself       = errors.New("it is this node itself")
	errPeerLooking  = errors.New("it is looking for a cluster itself")
	errNothingGiven = errors.New("no peers are given or remembered")
)

// Join contacts the peers given and remembered, again and again, until one that
// is a member of a cluster answers, and joins its cluster, which it returns:
// Config.Cluster if that is set. It blocks until then, or until ctx or the
// Gossip ends.
//
// Errors: ErrNoCluster (with what each address answered last) when ctx is over,
// or at once if there is no address to contact; ErrWrongCluster if a given peer
// belongs to another cluster than Config.Cluster and no other one to that;
// ErrClosed.
func (g *Gossip) Join(ctx context.Context) (id.Cluster, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.ctx, cancel)()
	var last error = errNothingGiven
	for {
		addresses := g.contacts.candidates(maxRemembered + len(g.config.Peers))
		if len(addresses) == 0 {
			return id.Cluster{}, fmt.Errorf("%w: %w", ErrNoCluster, last)
		}
		cluster, err := g.joinAny(ctx, addresses)
		switch {
		case err == nil && cluster.IsZero():
			// Nobody but ourselves, and members that are live already.
			if mine := g.cluster(); !mine.IsZero() && g.contacts.alive.Load() > 0 {
				return mine, nil
			}
			last = errItself
		case err == nil:
			g.contacts.wake()
			return cluster, nil
		case errors.Is(err, ErrWrongCluster), errors.Is(err, ErrClosed):
			return id.Cluster{}, err
		case ctx.Err() == nil || errors.Is(last, errNothingGiven):
			last = err
		}
		if err := g.pause(ctx, g.timing.pause); err != nil {
			if g.ctx.Err() != nil {
				return id.Cluster{}, fmt.Errorf("joining: %w", ErrClosed)
			}
			return id.Cluster{}, fmt.Errorf("%w: %w: %w", ErrNoCluster, err, last)
		}
	}
}

func (g *Gossip) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(g.contacts.jitter(d))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// joinAny contacts all addresses, some at a time, and returns when one has let
// this node join, or all have failed. It does not wait for what is still under
// way when ctx ends, except for a member that is just letting it join; Close does.
func (g *Gossip) joinAny(ctx context.Context, addresses []string) (id.Cluster, error) {
	if !g.enter() {
		return id.Cluster{}, fmt.Errorf("joining: %w", ErrClosed)
	}
	looking := g.cluster().IsZero()
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		cluster id.Cluster
		err     error
	}
	done := make(chan result, 1)
	go func() {
		defer g.owned.Done()
		cluster, err := g.contactAll(ctx, addresses, true)
		done <- result{cluster, err} // before ctx ends
		cancel()
	}()
	select {
	case r := <-done:
		return r.cluster, r.err
	case <-ctx.Done():
		// A member may be taking us in at this very moment. Whoever comes after
		// it sees that ctx is over.
		g.contacts.joining.Lock()
		cluster := g.cluster()
		g.contacts.joining.Unlock()
		if looking && !cluster.IsZero() {
			return cluster, nil
		}
		select {
		case r := <-done: // the round ends ctx itself when it is through
			return r.cluster, r.err
		default:
			return id.Cluster{}, context.Cause(ctx)
		}
	}
}

// contactAll contacts addresses and joins those of this node's cluster: the
// first that answers if first is set, or else all.
func (g *Gossip) contactAll(ctx context.Context, addresses []string, first bool) (id.Cluster, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex // guards faults and won
	var faults []error
	var won id.Cluster
	var all sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, address := range addresses {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		all.Add(1)
		go func() {
			defer all.Done()
			defer func() { <-slots }()
			cluster, err := g.contact(ctx, address)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				faults = append(faults, err)
				return
			}
			if !cluster.IsZero() {
				won = cluster
				if first {
					cancel()
				}
			}
		}()
	}
	all.Wait()
	if !won.IsZero() {
		return won, nil
	}
	// The one that settles the matter first.
	for _, err := range faults {
		if errors.Is(err, ErrWrongCluster) {
			return id.Cluster{}, err
		}
	}
	return id.Cluster{}, errors.Join(faults...)
}

// contact resolves host:port and contacts what is behind it. It returns the
// cluster joined, or zero without an error if there was nothing to contact.
func (g *Gossip) contact(ctx context.Context, address string) (id.Cluster, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return id.Cluster{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return id.Cluster{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, g.timing.contact, fmt.Errorf("no answer within %v", g.timing.contact))
	defer cancel()
	addrs, err := resolve(ctx, host)
	if err != nil {
		return id.Cluster{}, fmt.Errorf("resolving %s: %w", address, err)
	}
	var faults []error
	var joined id.Cluster
	for _, addr := range addrs[:min(len(addrs), maxPerName)] {
		resolved := netip.AddrPortFrom(addr, uint16(n))
		if !g.contacts.wanted(resolved) {
			continue
		}
		cluster, err := g.contactOne(ctx, address, resolved)
		switch {
		case err == nil:
			joined = cluster
		case errors.Is(err, errItself):
			g.contacts.markMine(resolved.String())
		default:
			faults = append(faults, err)
		}
	}
	if !joined.IsZero() {
		return joined, nil
	}
	return id.Cluster{}, errors.Join(faults...)
}

// contactOne finds out who is at the address, and joins it if it is right.
func (g *Gossip) contactOne(ctx context.Context, given string, address netip.AddrPort) (id.Cluster, error) {
	g.counters.contacts.Add(1)
	quiet := &logAdapter{logger: g.log}
	quiet.quiet.Store(true)
	found, err := scout(ctx, scoutSetup{
		profile: g.config.Profile, key: g.config.Key, name: g.name, transport: g.network, log: quiet,
		meta: *g.meta.Load(), hello: g.hello(),
	}, address.String())
	if err != nil {
		return id.Cluster{}, err
	}
	mine := g.cluster()
	switch {
	case found.node == g.config.Node:
		return id.Cluster{}, errItself
	case found.cluster.IsZero():
		return id.Cluster{}, fmt.Errorf("node %s at %s: %w", found.node, address, errPeerLooking)
	case !mine.IsZero() && found.cluster != mine:
		g.counters.foreign.Add(1)
		err := fmt.Errorf("node %s at %s is of cluster %s, this node of %s", found.node, address, found.cluster, mine)
		if g.contacts.firstRefusal(given, err.Error()) {
			g.log.Warn("a peer belongs to another cluster", "error", err)
		}
		if slices.Contains(g.config.Peers, given) {
			return id.Cluster{}, fmt.Errorf("%w: %w", ErrWrongCluster, err)
		}
		g.contacts.disown(given)
		return id.Cluster{}, err
	}
	return g.joinThrough(ctx, found.cluster, address)
}

// joinThrough joins the cluster through one of its members. A node that has no
// cluster adopts this one first, since it refuses everyone's nodes before; it
// takes that back if the member is gone in the meantime.
func (g *Gossip) joinThrough(ctx context.Context, cluster id.Cluster, address netip.AddrPort) (id.Cluster, error) {
	g.contacts.joining.Lock()
	defer g.contacts.joining.Unlock()
	if err := ctx.Err(); err != nil {
		return id.Cluster{}, context.Cause(ctx)
	}
	adopted := g.cluster().IsZero()
	switch {
	case adopted:
		if err := g.setIdentity(cluster, false); err != nil {
			return id.Cluster{}, err
		}
		g.advertise(time.Second)
	case g.cluster() != cluster: // another peer was faster
		return id.Cluster{}, fmt.Errorf("%s is of cluster %s, this node has just joined %s", address, cluster, g.cluster())
	}
	if _, err := g.list.Join([]string{address.String()}); err != nil {
		if adopted && g.contacts.alive.Load() == 0 {
			if err := g.setIdentity(id.Cluster{}, false); err == nil {
				g.advertise(time.Second)
			}
		}
		return id.Cluster{}, fmt.Errorf("joining cluster %s through %s: %w", cluster, address, plainError(err))
	}
	return cluster, nil
}

// contactLoop looks for lost and for given peers, for as long as there are any
// that are no live members.
func (g *Gossip) contactLoop() {
	defer g.owned.Done()
	for {
		d := g.timing.rejoin
		if g.contacts.alive.Load() == 0 {
			d = g.timing.pause // alone: someone must be there
		}
		timer := time.NewTimer(g.contacts.jitter(d))
		limit := perRejoin
		select {
		case <-g.ctx.Done():
			timer.Stop()
			return
		case <-g.contacts.kick:
			timer.Stop()
			limit = maxRemembered
		case <-timer.C:
		}
		if g.cluster().IsZero() || g.hasLeft() {
			continue
		}
		if g.contacts.conflict.Swap(false) {
			// Tell a member again where we are, until the old address is forgotten.
			if address, ok := g.contacts.anyLive(); ok {
				if _, err := g.list.Join([]string{address.String()}); err != nil {
					g.log.Debug("telling a member the new address", "peer", address, "error", err)
				}
			}
		}
		if addresses := g.contacts.candidates(limit); len(addresses) > 0 {
			if _, err := g.contactAll(g.ctx, addresses, false); err != nil {
				g.log.Debug("looking for peers", "error", err)
			}
		}
	}
}

func (g *Gossip) hasLeft() bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.left
}

// rememberLoop hands the addresses out whenever they have changed, and at the
// end once more.
func (g *Gossip) rememberLoop() {
	defer g.owned.Done()
	if g.config.Remember == nil {
		return
	}
	last := slices.Clone(g.config.Remembered)
	slices.Sort(last)
	remember := func() {
		if now := g.contacts.addresses(); !slices.Equal(now, last) {
			last = slices.Clone(now)
			g.config.Remember(now)
		}
	}
	for {
		select {
		case <-g.ctx.Done():
			remember()
			return
		case <-g.contacts.dirty:
			remember()
		}
	}
}
