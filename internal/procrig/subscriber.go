package procrig

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/copycat-replication/copycat"
	"github.com/copycat-replication/copycat/internal/history"
)

// subscriber is one subscription in a child: a user's program in small.
type subscriber struct {
	journal *history.Journal
	propose chan<- []byte
	commits <-chan []byte
	errs    <-chan error
	consume copycat.SnapshotConsumer

	done    chan struct{} // closed: both channels are closed, or cannot be served any more
	stop    chan struct{} // closed: no more proposals
	loading sync.WaitGroup
	sendMu  sync.Mutex // held over a send: sends follow the order of the journal
	stopped sync.Once
	ended   sync.Once

	mu       sync.Mutex // guards what follows
	proposed int
	loads    int
	errors   []string
	notices  []string
	troubles []string
	short    bool          // it was told that not all of its own was delivered to it
	pace     chan struct{} // closed: the running load ends; nil: there is none
}

// maxNotes bounds the texts that a subscriber keeps.
const maxNotes = 20

func newSubscriber(node copycat.CopyCat, id string, journal *history.Journal) (*subscriber, error) {
	s := &subscriber{journal: journal, done: make(chan struct{}), stop: make(chan struct{})}
	var err error
	s.propose, s.commits, s.errs, s.consume, err = node.SubscribeToDataStructureWithStringID(id, journal.Provide)
	if err != nil {
		return nil, err
	}
	go s.serve() // ends with the subscription; shutdown waits for done
	return s, nil
}

// serve applies what comes, as the documentation tells a user to.
func (s *subscriber) serve() {
	defer close(s.done)
	commits, errs := s.commits, s.errs
	for commits != nil || errs != nil {
		select {
		case p, ok := <-commits:
			switch {
			case !ok:
				commits = nil
			case p == nil:
				if !s.reload() {
					commits = nil
				}
			default:
				if _, err := s.journal.Deliver(p, 0); err != nil {
					s.trouble(fmt.Sprintf("delivered: %v", err))
				}
			}
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			s.report(err)
		}
	}
}

func (s *subscriber) reload() bool {
	data, err := s.consume()
	if errors.Is(err, copycat.ErrClosed) {
		return false // shut down before the load
	}
	if err == nil {
		err = s.journal.Load(data)
	}
	if err != nil {
		s.trouble(fmt.Sprintf("load: %v", err))
		return true
	}
	s.mu.Lock()
	s.loads++
	s.mu.Unlock()
	return true
}

func (s *subscriber) report(err error) {
	s.mu.Lock()
	s.errors = append(s.errors, err.Error())
	if len(s.errors) > maxNotes {
		s.errors = s.errors[1:]
	}
	s.mu.Unlock()
	var p *copycat.ProposalError
	if !errors.As(err, &p) {
		s.mu.Lock()
		s.short = s.short || errors.Is(err, copycat.ErrUndelivered)
		if len(s.notices) < maxNotes {
			s.notices = append(s.notices, err.Error())
		}
		s.mu.Unlock()
		return
	}
	if err := s.journal.Report(p.Proposal, fateOf(err), err.Error()); err != nil {
		s.trouble(fmt.Sprintf("reported: %v", err))
	}
}

func fateOf(err error) history.Fate {
	switch {
	case errors.Is(err, copycat.ErrNeverCommitted):
		return history.FateNever
	case errors.Is(err, copycat.ErrProposalExpired):
		return history.FateExpired
	case errors.Is(err, copycat.ErrProposalTooLarge), errors.Is(err, copycat.ErrNilProposal):
		return history.FateRefused
	}
	return history.FateUnknown
}

func (s *subscriber) trouble(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.troubles) < maxNotes {
		s.troubles = append(s.troubles, text)
	}
}

// errHalted: the subscription does not propose any more.
var errHalted = errors.New("subscription has ended")

// send proposes one change. It waits while the window is full.
func (s *subscriber) send(op history.Op, key uint32, size int, until <-chan struct{}) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	select {
	case <-s.stop:
		return errHalted
	default:
	}
	id, payload := s.journal.Propose(op, key, size)
	select {
	case s.propose <- payload:
		s.mu.Lock()
		s.proposed++
		s.mu.Unlock()
		return nil
	case <-s.stop:
	case <-until:
	}
	s.journal.Withdraw(id)
	return errHalted
}

func (s *subscriber) proposeMany(n, size int) error {
	for range n {
		if err := s.send(history.OpNone, 0, size, nil); err != nil {
			return err
		}
	}
	return nil
}

// work is what a load consists of.
type work struct {
	keys  uint32 // it puts and reads in turn
	reads uint32 // each how many-th is a read: prime to keys, so that all are read
	open  int    // how many proposals may wait for their fate
}

var (
	// ordinary: CopyCat takes far more than 300, but a minute's worth of them in
	// each fault would make the history of a run a history of waiting.
	ordinary = work{keys: 7, reads: 5, open: 300}
	// registers: the search for a linear order takes time that is exponential in
	// what is under way under one key. Three of each of three to five
	// subscriptions, on two keys, make it search and let it end.
	registers = work{keys: 2, reads: 3, open: 3}
)

// load starts or ends proposing in the background: puts and reads of a few
// keys, in turn.
func (s *subscriber) load(q loadRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pace != nil {
		close(s.pace)
		s.pace = nil
	}
	if !q.On {
		return nil
	}
	pause, err := time.ParseDuration(q.Pause)
	if err != nil || pause <= 0 {
		return fmt.Errorf("pause %q: %w", q.Pause, err)
	}
	w := ordinary
	if q.Registers {
		w = registers
	}
	until := make(chan struct{})
	s.pace = until
	s.loading.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for n := uint32(0); ; n++ {
			op, key := history.OpPut, n%w.keys
			if n%w.reads == w.reads-1 {
				op = history.OpRead
			}
			if s.journal.Open() < w.open {
				if s.send(op, key, q.Size, until) != nil {
					return
				}
			}
			select {
			case <-tick.C:
			case <-until:
				return
			}
		}
	})
	return nil
}

// halt ends proposing, and waits for it.
func (s *subscriber) halt() {
	s.stopped.Do(func() { close(s.stop) })
	s.loading.Wait()
}

// unsubscribe ends the subscription in order, and waits for its end.
func (s *subscriber) unsubscribe() {
	s.ended.Do(func() {
		s.halt()
		s.sendMu.Lock()
		close(s.propose)
		s.sendMu.Unlock()
	})
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.short {
		s.journal.Close(history.CutShort)
		return
	}
	s.journal.Close(history.Unsubscribed)
}

func (s *subscriber) state() SubscriptionState {
	n, digest := s.journal.Len()
	st := SubscriptionState{Len: n, Digest: digest, Open: s.journal.Open()}
	select {
	case <-s.done:
		st.Ended = true
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Proposed, st.Loads = s.proposed, s.loads
	st.Errors = append(st.Errors, s.errors...)
	st.Notices = append(st.Notices, s.notices...)
	st.Troubles = append(st.Troubles, s.troubles...)
	return st
}
