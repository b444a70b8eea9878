package raftgroup

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/copycat-replication/copycat/id"
)

// Subscribe adds a subscription. It returns at once: the subscription attaches
// to the node's replica when there is one. Having the group born is the caller's
// business (Prepare), and so is asking it for a replica, unless the
// configuration says Join. For one that waits longer than half a minute, and is not
// passive, the host asks by itself.
func (h *Host) Subscribe(cfg SubscriptionConfig) (*Subscription, error) {
	return h.subscribe(cfg, func(s *Subscription) { go s.run() }) // Close waits for ended
}

// subscribe adds a subscription and begins to serve it.
func (h *Host) subscribe(cfg SubscriptionConfig, serve func(*Subscription)) (*Subscription, error) {
	if cfg.Provider == nil {
		return nil, fmt.Errorf("structure %s: %w", cfg.Structure, ErrNoProvider)
	}
	s := newSubscription(h, cfg.withDefaults())
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.joinableLocked(cfg.Structure); err != nil && (h.closed || !cfg.Passive) {
		return nil, err
	}
	h.subs[s] = h.came
	h.came++
	if g := h.current[cfg.Structure]; g == nil || !g.call(func() { g.attach(s) }) {
		h.waiting[cfg.Structure] = append(h.waiting[cfg.Structure], s)
		if cfg.Join {
			h.beginJoinLocked(cfg.Structure, id.Node{}, joinWish{wanted: true})
		}
	}
	serve(s)
	return s, nil
}

// ended notes that a subscription is over; Close waits for it until then.
func (h *Host) ended(s *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, s)
}

// unqueue takes a subscription that ends out of the line for a replica.
func (h *Host) unqueue(s *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	waiting := h.waiting[s.cfg.Structure]
	for i, w := range waiting {
		if w == s {
			h.waiting[s.cfg.Structure] = append(waiting[:i:i], waiting[i+1:]...)
			break
		}
	}
	if len(h.waiting[s.cfg.Structure]) == 0 {
		delete(h.waiting, s.cfg.Structure)
	}
}

// inOrderLocked lists the subscriptions, oldest first.
func (h *Host) inOrderLocked() []*Subscription {
	return slices.SortedFunc(maps.Keys(h.subs), func(a, b *Subscription) int { return cmp.Compare(h.subs[a], h.subs[b]) })
}
