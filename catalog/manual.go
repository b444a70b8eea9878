package catalog

import (
	"github.com/copycat-replication/copycat/raftgroup"
)

// Manual is the log's side of a service that follows the log by no goroutine
// of its own: a simulation, which runs everything on one thread, takes commands
// from it and gives it what was committed. See raftgroup.Manual.
type Manual struct{ s *Service }

// NewManually makes a service whose caller follows the catalog's log for it,
// with a subscription of its own to Subscription's structure. Config.Tasks is
// needed, and runs all that waits; Close then does not wait for it.
func NewManually(cfg Config) (*Service, *Manual, error) {
	s, err := build(cfg)
	if err != nil {
		return nil, nil, err
	}
	s.tasks.Go(s.sweepLoop)
	return s, &Manual{s}, nil
}

// Subscription says how to subscribe.
func (m *Manual) Subscription() raftgroup.SubscriptionConfig { return m.s.subscription() }

// Next takes the next command that is to be proposed; nil: there is none.
func (m *Manual) Next() []byte { return m.s.nextCommand() }

// Commit applies one commit, and returns what came of it.
func (m *Manual) Commit(c []byte) (Result, error) { return m.s.apply(c) }

// Load restores the state from what the subscription's nil gave.
func (m *Manual) Load(data []byte) error { return m.s.load(data) }

// Error takes an error of the subscription.
func (m *Manual) Error(err error) { m.s.onError(err) }
