package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/copycat-replication/copycat/id"
)

const (
	maxPerName = 16 // addresses of one host name that are tried at a time
	atOnce     = 8  // addresses contacted at the same time
	perRejoin  = 4  // addresses contacted per rejoin interval
)

var (
	errItself       = errors.New("it is this node itself")
	errPeerLooking  = errors.New("it is looking for a cluster itself")
	errNothingGiven = errors.New("no peers are given or remembered")
)

// Join contacts the peers given and remembered, again and again, until one that
// is a member of a cluster answers, and joins its cluster, which it returns:
// Config.Cluster if that is set. It blocks until then, or until ctx or the
// Gossip ends. Nodes may list the others some moments later only: see Changed.
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
		case errors.Is(err, ErrClosed), errors.Is(err, ErrWrongCluster) && !g.cluster().IsZero():
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
		g.contacts.joining <- struct{}{}
		cluster := g.cluster()
		<-g.contacts.joining
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
		if g.contacts.firstRefusal(given, err.Error(), time.Now()) {
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
	select {
	case g.contacts.joining <- struct{}{}:
		defer func() { <-g.contacts.joining }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
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
		limit, open := g.nextContacts()
		if !open {
			return
		}
		if g.cluster().IsZero() || g.hasLeft() {
			continue
		}
		conflict, moved := g.contacts.takeConflicts()
		if conflict {
			g.tellAddress()
		}
		addresses := slices.Concat(moved, g.contacts.candidates(limit))
		if len(addresses) > 0 {
			if _, err := g.contactAll(g.ctx, addresses, false); err != nil {
				g.log.Debug("looking for peers", "error", err)
			}
		}
	}
}

// nextContacts waits for the next round and says how many addresses it is for.
func (g *Gossip) nextContacts() (limit int, open bool) {
	d := g.contacts.jitter(g.timing.rejoin)
	if g.contacts.alive.Load() == 0 { // alone: someone must be there
		d = max(g.contacts.jitter(g.timing.pause), d/5)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	hurry := g.contacts.hurry
	for {
		select {
		case <-g.ctx.Done():
			return 0, false
		case <-g.contacts.kick:
			return maxRemembered, true
		case <-hurry:
			// Once a round: conflicts go on until the old address is given up.
			hurry = nil
			timer.Reset(min(d, g.timing.reclaim+g.timing.reclaim/8))
		case <-timer.C:
			return perRejoin, true
		}
	}
}

// tellAddress tells a member where we are. It believes us once our former life,
// at another address, has been dead for long enough.
func (g *Gossip) tellAddress() {
	address, ok := g.contacts.anyLive()
	if !ok {
		return
	}
	if _, err := g.list.Join([]string{address.String()}); err != nil {
		g.log.Debug("telling a member the new address", "peer", address, "error", err)
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
