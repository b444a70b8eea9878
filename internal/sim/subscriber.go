package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/history"
	"github.com/copycat-replication/copycat/raftgroup"
)

// subscriber is one subscription with the program behind it: it proposes now
// and then, and takes commits at its own pace.
type subscriber struct {
	n       *node
	life    uint64
	group   int
	m       *raftgroup.Manual
	number  uint32
	base    int              // items that it holds before it subscribes
	of      id.Group         // which life of its structure it is of
	journal *history.Journal // nil: that is not known yet
	pace    time.Duration    // the longest pause between two looks at the commits
	rate    time.Duration    // the longest pause between two proposals; 0: none
	due     bool             // a nil came, and its consume has not succeeded
	leaving bool
	short   bool // it was told that not all of its own was delivered to it
}

func (n *node) subscribe(group int) error {
	s := n.s
	s.numbers++
	sub := &subscriber{
		n: n, life: n.life, group: group, number: uint32(s.numbers),
		pace: s.between(time.Millisecond, 40*time.Millisecond), rate: s.between(2*time.Millisecond, 200*time.Millisecond),
	}
	if s.chance(0.15) {
		sub.pace = 4 * time.Second
	}
	if s.chance(0.5) {
		sub.base = s.rng.IntN(5)
	}
	st := &s.structures[group]
	cfg := raftgroup.SubscriptionConfig{Structure: st.id, Provider: sub.provide, Window: 64 << 10}
	if s.chance(0.3) {
		cfg.ProposalTimeout = s.between(50*time.Millisecond, 5*time.Second)
	}
	var err error
	if sub.m, err = n.host.SubscribeManually(cfg); err != nil {
		return err
	}
	if !st.born {
		err = sub.open(id.Group{Structure: st.id, Incarnation: id.Incarnation{Birth: 2}})
	}
	n.subs = append(n.subs, sub)
	if s.town == nil { // in a town it looks when something has happened
		sub.lookLater()
		sub.proposeLater()
	}
	return err
}

// open begins the record of the subscription: of which life of its structure it
// is, is known when it has a replica.
func (sub *subscriber) open(g id.Group) error {
	s := sub.n.s
	var err error
	sub.of = g
	sub.journal, err = s.rec.Open(history.Subscriber{Structure: s.numberOf(g), Node: uint16(sub.n.number), Process: uint32(sub.life), Number: sub.number})
	if err == nil && sub.base > 0 {
		sub.journal.Base(sub.base)
	}
	return err
}

// opened opens the record if that can be.
func (sub *subscriber) opened() bool {
	g, here := sub.m.Group()
	switch {
	case here && sub.journal == nil:
		sub.n.s.must(sub.open(g))
	case here && sub.of != g:
		sub.n.s.broken("node %d: a subscription to %s hangs on %s", sub.n.number, sub.of, g)
	}
	return sub.journal != nil
}

// provide is the subscription's provider.
func (sub *subscriber) provide() ([]byte, error) {
	if !sub.opened() {
		return nil, errUnreachable
	}
	return sub.journal.Provide()
}

func (sub *subscriber) lives() bool {
	return sub.n.up && sub.n.life == sub.life && slices.Contains(sub.n.subs, sub)
}

func (sub *subscriber) lookLater() {
	sub.n.s.after(sub.n.s.between(0, sub.pace), func() {
		if !sub.lives() {
			return
		}
		if !sub.n.paused {
			sub.look()
		}
		if sub.lives() {
			sub.lookLater()
		}
	})
}

// look takes some commits, and the errors.
func (sub *subscriber) look() {
	s := sub.n.s
	for range 1 + s.rng.IntN(300) {
		known := sub.opened()
		if sub.due {
			data, err := sub.m.Consume()
			if err != nil && !errors.Is(err, raftgroup.ErrClosed) {
				break
			}
			if sub.due = false; err == nil { // else the subscription ends
				s.must(sub.journal.Load(data))
			}
		}
		p, ok, ended := sub.m.Poll()
		if ended {
			sub.errors()
			switch {
			case known && s.watch.died(sub.of):
				// What it had not been handed when the replica went is lost
				// for it, but stands in the order.
				sub.journal.Close(history.ShutDown)
			case sub.short && !sub.n.logFailed():
				s.broken("node %d: not all of its own was delivered to a subscription that could have had a replica", sub.n.number)
			case known && sub.short:
				sub.journal.Close(history.CutShort)
			case known:
				sub.journal.Close(history.Unsubscribed)
			}
			sub.n.subs = slices.DeleteFunc(sub.n.subs, func(o *subscriber) bool { return o == sub })
			break
		}
		if !ok {
			break
		}
		if p == nil {
			sub.due = true
			continue
		}
		if !known {
			s.broken("node %d: a commit of a structure without a replica", sub.n.number)
			break
		}
		s.note(uint64(len(p)))
		_, err := sub.journal.Deliver(p, 0)
		s.must(err)
		s.commits++
	}
	sub.errors()
	sub.n.work()
}

// errors takes down what the error channel says about proposals.
func (sub *subscriber) errors() {
	for {
		err, ok := sub.m.NextError()
		if !ok {
			return
		}
		sub.short = sub.short || errors.Is(err, raftgroup.ErrUndelivered)
		var pe *raftgroup.ProposalError
		if !errors.As(err, &pe) {
			continue
		}
		fate := history.FateUnknown
		switch {
		case errors.Is(err, raftgroup.ErrNeverCommitted):
			fate = history.FateNever
		case errors.Is(err, raftgroup.ErrProposalExpired):
			fate = history.FateExpired
		}
		sub.n.s.must(sub.journal.Report(pe.Proposal, fate, err.Error()))
	}
}

func (sub *subscriber) proposeLater() {
	s := sub.n.s
	s.after(s.between(0, sub.rate), func() {
		if !sub.lives() || sub.leaving {
			return
		}
		if !sub.n.paused && !s.quiet && (s.structures[sub.group].silent == 0 || s.chance(0.01)) {
			for range 1 + s.rng.IntN(20) {
				if !sub.propose() {
					break
				}
			}
			sub.n.work()
			if s.chance(0.002) {
				sub.leaving = true
				sub.m.Leave()
				return
			}
		}
		sub.proposeLater()
	})
}

// propose offers one proposal; false: the window is full.
func (sub *subscriber) propose() bool {
	s := sub.n.s
	if !sub.opened() {
		return false
	}
	op := history.OpPut
	if s.plan.Registers {
		// The search is exponential in what is under way together.
		if sub.journal.Open() >= 2 {
			return false
		}
		op = history.Op(1 + s.rng.IntN(2))
	}
	id, payload := sub.journal.Propose(op, uint32(s.rng.IntN(16)), 8+s.rng.IntN(200))
	if err := sub.m.Offer(payload); err != nil {
		sub.journal.Withdraw(id)
		return false
	}
	s.proposals++
	return true
}
