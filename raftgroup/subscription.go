package raftgroup

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// Provider serializes the user's data structure. See SubscriptionConfig.
type Provider func() ([]byte, error)

// SubscriptionConfig says how a subscription behaves. Zero values mean the defaults.
type SubscriptionConfig struct {
	Structure id.Structure
	// Provider is called for the base, from a goroutine of the subscription,
	// before anything is delivered; and inside Consume, on the consumer's
	// goroutine. It must not be nil.
	Provider Provider
	// MaxProposal bounds one proposal, in bytes. Default 8 MiB.
	MaxProposal int
	// Window bounds the proposals whose fate is not known yet, in bytes (each
	// counts 64 more than it has); then the propose channel blocks. It covers
	// bandwidth times delay: 32 MiB at 100 ms is 320 MB/s. Default 32 MiB.
	Window int64
	// ProposalTimeout voids a proposal that is not committed after that long.
	// Zero means never.
	ProposalTimeout time.Duration
	// ConsumerPatience is how long the consumer may leave the commit channel
	// full before a warning. Default 10 s.
	ConsumerPatience time.Duration
	// ProviderPatience is how long the provider may take before a warning. Default 30 s.
	ProviderPatience time.Duration
	// Join has a replica got (Host.Join) if there is none here when the
	// subscription begins, and none on its way: a caller that has looked for one
	// before cannot know that it is here still.
	Join bool
	// Passive has the subscription wait for a replica that comes by itself: if
	// the one here is removed, none is got in its place for its sake.
	Passive bool
}

func (c SubscriptionConfig) withDefaults() SubscriptionConfig {
	if c.MaxProposal == 0 {
		c.MaxProposal = 8 << 20
	}
	if c.Window == 0 {
		c.Window = 32 << 20
	}
	if c.ConsumerPatience == 0 {
		c.ConsumerPatience = 10 * time.Second
	}
	if c.ProviderPatience == 0 {
		c.ProviderPatience = 30 * time.Second
	}
	return c
}

// Subscription is one user of a data structure on this node: it owns the three
// channels, closes them, and runs the goroutines that serve them. Proposals
// flow from the propose channel through the pump into the inbox, and from
// there into the window that the group's step owns; commits flow from the log
// through a delivery cursor into the commit channel.
type Subscription struct {
	host *Host
	cfg  SubscriptionConfig

	proposeCh chan []byte
	commitCh  chan []byte
	errs      *errorQueue

	group   atomic.Pointer[Group] // nil until a replica is here
	session atomic.Uint64         // 0 while there is none
	asked   atomic.Bool           // its provider was asked at the start
	brought atomic.Bool           // and had something
	at      atomic.Uint64         // index of the entry that delivery has come to
	owed    atomic.Uint64         // index up to which entries with its own changes were settled
	drainAt atomic.Uint64         // deliver up to here and close; stored +1, 0: not draining

	begin     chan struct{} // closed: delivery may start
	beginOnce sync.Once
	baseDue   chan struct{} // cap 1: the provider is to bring the base
	news      chan struct{} // cap 1: the apply cursor moved, or something changed
	stop      chan struct{} // closed: the host shuts down
	halt      chan struct{} // closed: no proposal is taken any more
	pumped    chan struct{} // closed: the pump takes no proposals any more, and refuses them
	shown     chan struct{} // closed: the commit channel is closed, so that everybody can know of the end
	ended     chan struct{} // closed: channels are closed, goroutines gone
	credit    credit

	mu      sync.Mutex
	inbox   [][]byte
	spare   [][]byte // an inbox that was worked off, for its room
	sealed  bool     // the pump has ended: nothing more comes into the inbox
	due     *rendezvous
	stopped bool
	cause   error // why the structure cannot be subscribed to any more; nil: it can
	gone    bool  // off its group for good: no group may take it on any more
	pends   bool  // when it last lost its group, the fate of some proposals was open
	over    bool  // the commit channel is closed, or about to be

	manual   bool        // driven by a Manual: nothing may wait
	patience *time.Timer // of the delivery's goroutine
	out      handout     // its too: what lies in commitCh
	direct   handover    // which lends that, and its deliverer, to a step

	// Owned by the group's step.
	prop      proposer
	life      id.Incarnation // of the group that it hung on first
	nonce     [16]byte       // of the SessionOpen under way
	spent     uint64         // a session that was given up, and is to be closed; 0: none
	askedAt   time.Time
	started   bool
	left      bool
	base      []byte
	baseReady bool
	baseAt    time.Time
}

func newSubscription(h *Host, cfg SubscriptionConfig) *Subscription {
	commits := make(chan []byte, commitBuffer)
	return &Subscription{
		host: h, cfg: cfg,
		proposeCh: make(chan []byte, proposeBuffer),
		commitCh:  commits,
		out:       newHandout(commits),
		errs:      newErrorQueue(),
		begin:     make(chan struct{}),
		baseDue:   make(chan struct{}, 1),
		news:      make(chan struct{}, 1),
		stop:      make(chan struct{}),
		halt:      make(chan struct{}),
		pumped:    make(chan struct{}),
		shown:     make(chan struct{}),
		ended:     make(chan struct{}),
		credit:    credit{limit: cfg.Window, room: make(chan struct{}, 1)},
	}
}

// Propose is the channel to send proposals on. A proposal's bytes belong to
// the subscription from then on. It blocks while the window is full. Closing
// it unsubscribes.
func (s *Subscription) Propose() chan<- []byte { return s.proposeCh }

// Commits hands out commits in log order; the slices belong to the receiver.
// A nil means: call Consume, and load what it returns. Up to 256 commits of
// together 4 MiB (or one that is larger) wait in it; beyond that, a consumer
// that does not read costs what is read ahead of it, 1 MiB of log or one entry.
// It is closed after the last commit of a subscription that ended; if that is
// not the last of its own, Errors says so (ErrUndelivered).
func (s *Subscription) Commits() <-chan []byte { return s.commitCh }

// Errors hands out what went wrong. It is closed after Commits is.
func (s *Subscription) Errors() <-chan error { return s.errs.out }

// run serves the subscription until it ends.
func (s *Subscription) run() {
	var pumping, delivering sync.WaitGroup
	pumping.Go(s.pump)
	delivering.Go(s.deliver)
	go s.errs.run() // finish waits for it
	delivering.Wait()
	<-s.pumped
	s.unhook()
	s.refuseRest() // what lies there was sent before this end
	read := s.errs.await()
	// A select over both channels must not miss buffered commits: the error
	// channel closes last.
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	close(s.commitCh)
	close(s.shown)
	pumping.Wait() // what was sent before the commit channel closed is reported
	if read {
		s.errs.await() // to whoever reads: finish does not wait when the host shuts down
	}
	s.errs.seal()
	if n := s.errs.finish(s.stop); n > 0 {
		s.host.cfg.Logger.Warn("errors that nobody read", "structure", s.cfg.Structure.String(), "count", n)
	}
	s.host.ended(s)
	close(s.ended)
}

// join notes which group has taken the subscription on; not after its end.
func (s *Subscription) join(g *Group) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		s.group.Store(g)
	}
	return !s.gone
}

// settle hears of a proposal's fate. Runs in the step, and must not block.
func (s *Subscription) settle(f settlement) {
	cost := int64(len(f.payload) + proposalOverhead)
	var err error
	switch f.fate {
	case fateCommitted:
		if g := s.group.Load(); g != nil {
			s.owed.Store(max(s.owed.Load(), g.state.index))
		}
		s.credit.give(cost)
		return
	case fateVoided:
		err = ErrProposalExpired
	case fateNever:
		err = ErrNeverCommitted
	default:
		err = ErrOutcomeUnknown
	}
	s.errs.proposal(&ProposalError{Structure: s.cfg.Structure, Proposal: f.payload, Err: err}, func() { s.credit.give(cost) })
}

// notify wakes the delivery; it never blocks.
func (s *Subscription) notify() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// report puts a warning on the error channel; it never blocks.
func (s *Subscription) report(err error) { s.errs.warn(err) }

// startDelivery lets delivery begin. Runs in the step.
func (s *Subscription) startDelivery() {
	s.started = true
	s.beginOnce.Do(func() { close(s.begin) })
}

// wantBase asks for the provider's base. Runs in the step.
func (s *Subscription) wantBase() {
	select {
	case s.baseDue <- struct{}{}:
	default:
	}
}
