package raftgroup

import (
	"fmt"
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

const (
	// proposeBuffer lets a burst of senders go on without a switch of
	// goroutines for each, and so into one batch: measured with 256 proposals
	// under way, 32 places give batches of 32 at three times the allocations and
	// twice the processor's time for each proposal. What lies there is not in
	// the window yet, so it is bounded by number, and by MaxProposal.
	proposeBuffer = 256
	// pumpBatch is how many proposals the pump hands over at once.
	pumpBatch = 256
	// proposalOverhead is what a proposal costs beside its bytes.
	proposalOverhead = 64
)

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
	ended     chan struct{} // closed: channels are closed, goroutines gone
	pumped    chan struct{} // closed: the pump has ended
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
		ended:     make(chan struct{}),
		pumped:    make(chan struct{}),
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
	var serving sync.WaitGroup
	serving.Go(s.pump)
	serving.Go(s.deliver)
	go s.errs.run() // finish waits for it
	serving.Wait()
	s.unhook()
	s.errs.seal()
	// A select over both channels must not miss buffered commits: the error
	// channel closes last.
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	close(s.commitCh)
	if n := s.errs.finish(s.stop); n > 0 {
		s.host.cfg.Logger.Warn("errors that nobody read", "structure", s.cfg.Structure.String(), "count", n)
	}
	s.host.ended(s)
	close(s.ended)
}

// unhook takes the subscription off its group and the host. Proposals that are
// left (a shutdown leaves some, and the want of a replica) are reported.
func (s *Subscription) unhook() {
	s.mu.Lock()
	s.gone = true // an attach may still be on its way: it must not touch what is ours from here on
	g := s.group.Load()
	s.mu.Unlock()
	s.host.unqueue(s)
	gone := make(chan struct{})
	if g != nil && g.call(func() { g.detach(s); close(gone) }) {
		select {
		case <-gone:
		case <-s.host.idle: // the workers have ended: nobody steps the group any more
		}
	}
	s.giveUpRest()
}

// giveUpRest reports what nobody will propose any more.
func (s *Subscription) giveUpRest() {
	s.mu.Lock()
	rest := s.inbox
	s.inbox = nil
	s.mu.Unlock()
	s.prop.abandon(s.settle)
	for _, p := range rest {
		s.errs.proposal(&ProposalError{Structure: s.cfg.Structure, Proposal: p, Err: fmt.Errorf("%w: %w", ErrNeverCommitted, s.why())}, nil)
	}
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

// leave notes that its group was removed; false after the subscription's end.
// Runs in that group's last step.
func (s *Subscription) leave() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.group.Store(nil)
	s.pends = len(s.prop.window) > 0
	s.drainAdriftLocked()
	s.notify()
	return !s.gone
}

// drainAdriftLocked has a subscription without a group that was unsubscribed, and
// whose proposals are all settled, drain: what is owed to it is known. What is
// not settled is settled by the next group that it gets.
func (s *Subscription) drainAdriftLocked() {
	if s.sealed && len(s.inbox) == 0 && !s.pends && s.cause == nil {
		s.drained(s.owed.Load())
	}
}

// isGone reports whether no group may take the subscription on any more.
func (s *Subscription) isGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// hopeless reports whether a subscription that ends, and has no replica that
// runs, cannot count on another one: its structure is gone, none is got for its
// sake, or this node's log takes none any more. Until then one is got for it as
// for any other.
func (s *Subscription) hopeless() bool {
	s.mu.Lock()
	leaves, gone := s.sealed || s.cause != nil || s.stopped, s.cause != nil || s.stopped
	s.mu.Unlock()
	return leaves && (gone || s.cfg.Passive || s.host.logIsGone())
}

// pump moves proposals from the channel into the inbox, as many at a time as
// there are.
func (s *Subscription) pump() {
	defer close(s.pumped)
	batch := make([][]byte, 0, pumpBatch)
	for {
		select {
		case p, ok := <-s.proposeCh:
			if !ok {
				s.seal()
				return
			}
			batch = s.admit(batch[:0], p)
		case <-s.halt:
			s.refuseRest()
			return
		}
	more:
		for len(batch) < pumpBatch {
			select {
			case p, ok := <-s.proposeCh:
				if !ok {
					s.put(batch)
					s.seal()
					return
				}
				batch = s.admit(batch, p)
			default:
				break more
			}
		}
		s.put(batch)
	}
}

// admit checks a proposal and waits for room in the window, letting go of what
// was collected before it waits.
func (s *Subscription) admit(batch [][]byte, p []byte) [][]byte {
	switch {
	case p == nil:
		s.refuse(nil, ErrNilProposal)
		return batch
	case len(p) > s.cfg.MaxProposal:
		err := fmt.Errorf("%w: %d bytes, the limit is %d", ErrProposalTooLarge, len(p), s.cfg.MaxProposal)
		s.refuse(p, err)
		return batch
	}
	cost := int64(len(p) + proposalOverhead)
	if !s.credit.take(cost) {
		s.put(batch)
		batch = batch[:0]
		if !s.credit.wait(cost, s.halt) {
			s.refuse(p, fmt.Errorf("%w: %w", ErrNeverCommitted, s.why()))
			return batch
		}
	}
	return append(batch, p)
}

// refuse reports a proposal that never left; its error holds room in the
// window until it is read, so that errors are bounded too.
func (s *Subscription) refuse(p []byte, err error) {
	cost := int64(len(p) + proposalOverhead)
	s.credit.force(cost)
	s.errs.proposal(&ProposalError{Structure: s.cfg.Structure, Proposal: p, Err: err}, func() { s.credit.give(cost) })
	s.credit.block(s.halt)
}

func (s *Subscription) put(batch [][]byte) {
	if len(batch) == 0 {
		return
	}
	s.mu.Lock()
	s.inbox = append(s.inbox, batch...)
	s.mu.Unlock()
	if g := s.group.Load(); g != nil {
		g.wake()
	}
}

// seal notes that the user closed the propose channel.
func (s *Subscription) seal() {
	s.mu.Lock()
	s.sealed = true
	g := s.group.Load()
	if g == nil {
		s.drainAdriftLocked()
		s.notify()
	}
	s.mu.Unlock()
	if g != nil {
		g.wake()
	}
}

// refuseRest reports what the end of the subscription finds in the channel.
func (s *Subscription) refuseRest() {
	for {
		select {
		case p, ok := <-s.proposeCh:
			if !ok {
				return
			}
			s.errs.proposal(&ProposalError{Structure: s.cfg.Structure, Proposal: p, Err: fmt.Errorf("%w: %w", ErrNeverCommitted, s.why())}, nil)
		default:
			return
		}
	}
}

// takeInbox moves the inbox into the window. Runs in the step.
func (s *Subscription) takeInbox(now time.Time) {
	s.mu.Lock()
	inbox := s.inbox
	s.inbox, s.spare = s.spare, nil
	s.mu.Unlock()
	if inbox == nil {
		return
	}
	var deadline time.Time
	if s.cfg.ProposalTimeout > 0 {
		deadline = now.Add(s.cfg.ProposalTimeout)
	}
	for _, p := range inbox {
		s.prop.add(p, deadline)
	}
	clear(inbox)
	if cap(inbox) <= 4*proposeBuffer {
		s.mu.Lock()
		s.spare = inbox[:0]
		s.mu.Unlock()
	}
}

// draining reports whether the propose channel was closed and all of it taken.
func (s *Subscription) draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealed && len(s.inbox) == 0
}

// drained tells delivery where its last commit is.
func (s *Subscription) drained(index uint64) {
	s.drainAt.Store(index + 1)
	s.notify()
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

// shut begins the end of a subscription whose host shuts down.
func (s *Subscription) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.stopped = true
		close(s.stop)
		if s.cause == nil {
			close(s.halt)
		}
	}
}

// dismiss ends a subscription whose structure is gone: no proposal is taken any
// more, and delivery ends behind index.
func (s *Subscription) dismiss(cause error, index uint64) {
	s.mu.Lock()
	first := s.cause == nil
	if first {
		s.cause = cause
		if !s.stopped {
			close(s.halt)
		}
	}
	s.mu.Unlock()
	if first {
		s.errs.end(cause)
		s.drained(index)
	}
}

func (s *Subscription) dismissed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause != nil
}

// why says why proposals are not taken any more.
func (s *Subscription) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return s.cause
	}
	return ErrClosed
}

// stranger is not nil if a group is of another life of the structure than the
// one that the subscription began with.
func (s *Subscription) stranger(g id.Group) error {
	switch {
	case s.life == id.Incarnation{} || s.life == g.Incarnation:
		return nil
	case s.life.Birth == g.Incarnation.Birth:
		return ErrRebuilt
	}
	return ErrDeleted
}
