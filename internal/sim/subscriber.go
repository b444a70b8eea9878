package sim

import (
	"errors"
	"slices"
	"time"

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
	journal *history.Journal
	pace    time.Duration // the longest pause between two looks at the commits
	rate    time.Duration // the longest pause between two proposals; 0: none
	due     bool          // a nil came, and its consume has not succeeded
	leaving bool
}

func (n *node) subscribe(group int) error {
	s := n.s
	s.numbers++
	journal, err := s.rec.Open(history.Subscriber{Structure: uint16(group + 1), Node: uint16(n.number), Process: uint32(n.life), Number: uint32(s.numbers)})
	if err != nil {
		return err
	}
	sub := &subscriber{n: n, life: n.life, group: group, journal: journal, pace: s.between(time.Millisecond, 40*time.Millisecond), rate: s.between(2*time.Millisecond, 200*time.Millisecond)}
	if s.chance(0.15) {
		sub.pace = 4 * time.Second
	}
	if s.chance(0.5) {
		journal.Base(s.rng.IntN(5))
	}
	cfg := raftgroup.SubscriptionConfig{Structure: s.structures[group].id, Provider: journal.Provide, Window: 64 << 10}
	if s.chance(0.3) {
		cfg.ProposalTimeout = s.between(50*time.Millisecond, 5*time.Second)
	}
	if sub.m, err = n.host.SubscribeManually(cfg); err != nil {
		return err
	}
	n.subs = append(n.subs, sub)
	sub.lookLater()
	sub.proposeLater()
	return nil
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
		if sub.due {
			data, err := sub.m.Consume()
			if err != nil {
				break
			}
			sub.due = false
			s.must(sub.journal.Load(data))
		}
		p, ok, ended := sub.m.Poll()
		if ended {
			sub.errors()
			sub.journal.Close(history.Unsubscribed)
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
	id, payload := sub.journal.Propose(history.OpPut, uint32(s.rng.IntN(16)), 8+s.rng.IntN(200))
	if err := sub.m.Offer(payload); err != nil {
		sub.journal.Withdraw(id)
		return false
	}
	s.proposals++
	return true
}
