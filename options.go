package copycat

import (
	"fmt"
	"slices"

	"github.com/copycat-replication/copycat/raftgroup"
)

// AllocationOption is an option of a data structure: for AllocateNewDataStructure
// and CreateDataStructure, and for AlterDataStructure later. One that makes no
// sense is ErrInvalidOptions there. It may be used any number of times.
type AllocationOption func(*allocation) error

// allocation collects options.
type allocation struct {
	change      raftgroup.OptionsChange
	dataCenters int // WithDataCenterReplicas; 0: not given
}

// maxDataCenters bounds the voters of a group: each commit waits for a majority of them.
const maxDataCenters = 9

// WithDataCenterReplicas asks for a voter in each of n data centers, 1 to 9. A
// group has an odd number of voters, so an even n gives one of them a second one.
// It sets the number of voters too (to n or n+1), also in AlterDataStructure,
// unless WithVoters is given beside it.
// With voters in only two data centers, losing the one that has the majority
// stops writes.
func WithDataCenterReplicas(n int) AllocationOption {
	return func(a *allocation) error {
		if n < 1 || n > maxDataCenters {
			return invalidOption("WithDataCenterReplicas(%d): must be 1 to %d", n, maxDataCenters)
		}
		a.dataCenters = n
		a.set(raftgroup.OptionDataCenters, func(o *raftgroup.Options) { o.DataCenters = uint32(n) })
		return nil
	}
}

// WithVoters asks for n voters: an odd number up to nine. n voters survive the
// loss of (n-1)/2 of them, and each commit waits for the fastest majority.
// Default 3. There are fewer as long as there are not enough nodes. It is never
// fewer than the data centers of WithDataCenterReplicas: to lower both, give both.
func WithVoters(n int) AllocationOption {
	return func(a *allocation) error {
		if n < 1 || n > maxDataCenters || n%2 == 0 {
			return invalidOption("WithVoters(%d): must be odd, 1 to %d", n, maxDataCenters)
		}
		a.set(raftgroup.OptionVoters, func(o *raftgroup.Options) { o.Voters = uint32(n) })
		return nil
	}
}

// WithLearnersPerDataCenter asks for n replicas more in each data center, 0 to 16,
// which hold everything and have no vote: they make copies near, and do not slow
// commits. Default 0.
func WithLearnersPerDataCenter(n int) AllocationOption {
	return func(a *allocation) error {
		if n < 0 || n > maxLearners {
			return invalidOption("WithLearnersPerDataCenter(%d): must be 0 to %d", n, maxLearners)
		}
		a.set(raftgroup.OptionLearnersPerDataCenter, func(o *raftgroup.Options) { o.LearnersPerDataCenter = uint32(n) })
		return nil
	}
}

// maxLearners bounds the learners in one data center: each gets every change.
const maxLearners = 16

// WithPinnedDataCenters allows replicas in these data centers only, 32 at most.
// None: in all. A subscription elsewhere still gets a replica on its own node, which has
// no vote.
func WithPinnedDataCenters(names ...string) AllocationOption {
	names = slices.Clone(names)
	return func(a *allocation) error {
		a.set(raftgroup.OptionPinnedDataCenters, func(o *raftgroup.Options) { o.PinnedDataCenters = names })
		return nil
	}
}

// WithPreferredDataCenter asks for the leader to be in a data center, if a
// voter there can lead. Empty: anywhere.
func WithPreferredDataCenter(name string) AllocationOption {
	return func(a *allocation) error {
		a.set(raftgroup.OptionPreferredDataCenter, func(o *raftgroup.Options) { o.PreferredDataCenter = name })
		return nil
	}
}

func invalidOption(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalidOptions, fmt.Errorf(format, args...))
}

func (a *allocation) set(option raftgroup.Option, f func(*raftgroup.Options)) {
	f(&a.change.Options)
	if !slices.Contains(a.change.Fields, option) {
		a.change.Fields = append(a.change.Fields, option)
	}
}

// collect makes one change of several options.
func collect(opts []AllocationOption) (raftgroup.OptionsChange, error) {
	var a allocation
	for _, o := range opts {
		if o == nil {
			return a.change, invalidOption("an option is nil")
		}
		if err := o(&a); err != nil {
			return a.change, err
		}
	}
	if a.dataCenters > 0 && !slices.Contains(a.change.Fields, raftgroup.OptionVoters) {
		a.set(raftgroup.OptionVoters, func(o *raftgroup.Options) { o.Voters = uint32(a.dataCenters | 1) }) // odd
	}
	return a.change, nil
}

// newOptions are the options of a structure that is to be created.
func (n *node) newOptions(change raftgroup.OptionsChange) (raftgroup.Options, error) {
	opt := change.Apply(raftgroup.Options{SnapshotEntries: n.cfg.SnapshotEntries, SnapshotBytes: n.cfg.SnapshotBytes})
	return opt, opt.Check()
}
