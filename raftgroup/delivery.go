package raftgroup

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/copycat-replication/copycat/snapshot"
	"github.com/copycat-replication/copycat/wal"
)

// rendezvous is an outstanding nil: the consumer is to call Consume, and
// nothing follows until it has (design, section 6).
type rendezvous struct {
	make bool
	// load: what to return. Exactly one of reader and bytes is used.
	reader *snapshot.Reader
	ref    SnapshotRef // of reader
	bytes  []byte
	// make: the state as of the nil, and the session that was asked.
	state *state
	maker uint64

	rewind *state // set by a make that failed: delivery goes on after this
	done   chan struct{}
}

// maxBase bounds the base: it travels as one entry of the log.
const maxBase = 32 << 20

// baseRetry is the pause after a provider that failed to bring the base.
const baseRetry = time.Second

// deliverer is a subscription's way through the committed log: it says what to
// hand out next, and never waits itself. The subscription's goroutine drives
// it, or a simulation does.
type deliverer struct {
	sub   *Subscription
	g     *Group // whose log it walks
	c     cursor
	ready [][]byte    // to be handed out next
	met   *rendezvous // the outstanding nil: nothing follows before it is served
}

// step is what a deliverer wants its driver to do.
type step uint8

const (
	stepHand  step = iota + 1 // hand out the commit, or the nil
	stepWait                  // until the subscription is notified, or the nil is served
	stepPause                 // something failed and was reported: try again in a while
	stepAsk                   // ask the provider whether the consumer holds something
	stepEnd                   // all is delivered
)

// next says what to do; with stepHand, what to hand out.
func (d *deliverer) next() ([]byte, step) {
	if d.met != nil {
		select {
		case <-d.met.done:
		default:
			return nil, stepWait
		}
		if d.met.rewind != nil {
			d.c.reset(d.met.rewind) // delivery follows what the consumer has got
		}
		d.met = nil
	}
	for {
		if len(d.ready) > 0 {
			p := d.ready[0]
			d.ready[0] = nil
			d.ready = d.ready[1:]
			return p, stepHand
		}
		if st := d.advance(); st != 0 {
			return nil, st
		}
	}
}

// advance moves over one entry, or to another place. 0: go on.
func (d *deliverer) advance() step {
	s := d.sub
	switch now := s.group.Load(); {
	case now == nil: // the replica was removed; another one is being made
		if s.leaving() {
			return stepEnd
		}
		return stepWait
	case now != d.g:
		return d.jump(now, d.g == nil)
	}
	d.c.mine, d.c.holds = s.session.Load(), s.brought.Load()
	e, ok, err := d.c.next(d.g.store, d.g.applied.Load())
	switch {
	case errors.Is(err, wal.ErrCompacted):
		return d.jump(d.g, false)
	case err != nil:
		s.report(fmt.Errorf("group %s: delivery after %d: %w", d.g.key, d.c.state.index, err))
		return stepPause
	case !ok:
		if at := s.drainAt.Load(); at > 0 && d.c.state.index+1 >= at {
			return stepEnd
		}
		return stepWait
	}
	switch e.kind {
	case deliverPayloads:
		d.ready = e.payloads
	case deliverBase:
		return d.meet(&rendezvous{bytes: e.base})
	case deliverMake:
		at, err := d.c.state.clone()
		if err != nil {
			s.report(err)
			return 0
		}
		return d.meet(&rendezvous{make: true, state: at, maker: d.c.mine})
	}
	return 0
}

// meet makes a nil due.
func (d *deliverer) meet(r *rendezvous) step {
	r.done = make(chan struct{})
	d.met = r
	d.sub.mu.Lock()
	d.sub.due = r
	d.sub.mu.Unlock()
	return stepHand
}

// jump puts the cursor where delivery can go on from: behind the newest
// snapshot held, or at the beginning of the log. At the start of a
// subscription, a snapshot of zero bytes holds nothing and gives no nil, unless
// the consumer holds something: that has to go. Only its provider can tell.
func (d *deliverer) jump(g *Group, start bool) step {
	s := d.sub
	d.c.holds = s.brought.Load()
	at, err := s.host.loadPoint(g)
	switch {
	case err != nil:
		s.report(fmt.Errorf("group %s: load snapshot: %w", g.key, err))
		return stepPause
	case start && !s.asked.Load() && (at.reader == nil || at.reader.UserSize() == 0):
		if at.reader != nil {
			s.closeReader(at.reader)
		}
		return stepAsk
	case at.reader != nil:
		d.g = g
		d.c.reset(at.state)
		if start && at.reader.UserSize() == 0 && !d.c.holds {
			s.closeReader(at.reader)
			return 0
		}
		return d.meet(&rendezvous{reader: at.reader, ref: at.ref})
	case start:
		d.g = g
		d.c.reset(at.state)
		return 0
	}
	// Another replica has taken the place of the one before, and has no
	// snapshot: begin again, with the base.
	base, behind, err := findBase(g, at.state)
	if err != nil {
		if !errors.Is(err, errNoBase) {
			s.report(fmt.Errorf("group %s: load base: %w", g.key, err))
		}
		return stepPause
	}
	d.g = g
	d.c.reset(behind)
	return d.meet(&rendezvous{bytes: base})
}

// leave lets go of an outstanding nil when the host shuts down: the file behind
// it is closed; if it is being served, that is waited for, since no user code
// runs there. A nil without a file can still be served.
func (d *deliverer) leave() {
	r := d.met
	if r == nil || r.reader == nil {
		return
	}
	s := d.sub
	s.mu.Lock()
	outstanding := s.due == r
	if outstanding {
		s.due = nil
	}
	s.mu.Unlock()
	if outstanding {
		s.closeReader(r.reader)
		return
	}
	<-r.done
}

// deliver drives the subscription's delivery: first the base if it is this
// one's to bring, then a load, then commit after commit.
func (s *Subscription) deliver() {
	if !s.awaitBegin() {
		return
	}
	d := &deliverer{sub: s}
	defer d.leave()
	for {
		p, st := d.next()
		ok := true
		switch st {
		case stepHand:
			ok = s.sendCommit(p)
		case stepWait:
			ok = s.awaitNews(d.met)
		case stepPause:
			ok = s.pause(baseRetry)
		case stepAsk:
			_, err, going := s.askProvider()
			if err != nil {
				s.report(fmt.Errorf("structure %s: %w", s.cfg.Structure, err))
			}
			ok = going
		case stepEnd:
			return
		}
		if !ok {
			return
		}
	}
}

// sendCommit hands over one commit or nil, and warns about a consumer that
// does not read. False: the host shuts down.
func (s *Subscription) sendCommit(p []byte) bool {
	select {
	case s.commitCh <- p:
		return true
	default:
	}
	patience := s.startPatience()
	defer patience.Stop()
	for {
		select {
		case s.commitCh <- p:
			return true
		case <-s.stop:
			return false
		case <-patience.C:
			s.report(fmt.Errorf("structure %s: %w for %s", s.cfg.Structure, ErrSlowConsumer, s.cfg.ConsumerPatience))
		}
	}
}

// startPatience starts the delivery's one timer: a full commit channel is no
// rare thing, and each of them would cost a timer.
func (s *Subscription) startPatience() *time.Timer {
	if s.patience == nil {
		s.patience = time.NewTimer(s.cfg.ConsumerPatience)
	} else {
		s.patience.Reset(s.cfg.ConsumerPatience)
	}
	return s.patience
}

// awaitNews waits until something may have changed; met, if not nil, is the
// nil that the consumer has not answered. False: the host shuts down.
func (s *Subscription) awaitNews(met *rendezvous) bool {
	if met == nil {
		select {
		case <-s.news:
			return true
		case <-s.stop:
			return false
		}
	}
	patience := s.startPatience()
	defer patience.Stop()
	for {
		select {
		case <-met.done:
			return true
		case <-s.stop:
			return false
		case <-patience.C:
			s.report(fmt.Errorf("structure %s: %w: the snapshot consumer has not been called since the nil on it", s.cfg.Structure, ErrSlowConsumer))
		}
	}
}

// pause waits, unless the subscription is stopped meanwhile.
func (s *Subscription) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.stop:
		return false
	}
}

// Consume is the SnapshotConsumer: to be called once for each nil on the
// commit channel, by the goroutine that read it. It returns the bytes to load,
// which belong to the caller.
func (s *Subscription) Consume() ([]byte, error) {
	s.mu.Lock()
	r := s.due
	s.due = nil
	over := s.over || s.stopped
	s.mu.Unlock()
	if r == nil {
		if over {
			return nil, fmt.Errorf("structure %s: %w", s.cfg.Structure, ErrClosed)
		}
		return nil, fmt.Errorf("structure %s: %w", s.cfg.Structure, ErrNoSnapshotDue)
	}
	data, err := s.serve(r)
	if err != nil && s.manual {
		s.mu.Lock()
		s.due = r // to be tried again
		s.mu.Unlock()
		return nil, err
	}
	close(r.done)
	return data, err
}

// serve does what a nil is for. An error ends the subscription, or, where
// nothing may wait, leaves the nil outstanding.
func (s *Subscription) serve(r *rendezvous) ([]byte, error) {
	if r.make {
		return s.makeSnapshot(r)
	}
	if r.reader == nil {
		return append([]byte{}, r.bytes...), nil
	}
	data, err := readSnapshot(r.reader)
	s.closeReader(r.reader)
	if err == nil {
		return data, nil
	}
	// The file went bad under us. It is fetched again; delivery goes on after
	// whatever is returned.
	s.report(fmt.Errorf("structure %s: load snapshot: %w", s.cfg.Structure, err))
	if g := s.group.Load(); g != nil {
		g.call(func() { g.refetch(r.ref, err) })
	}
	return s.fallBack(r)
}

// makeSnapshot calls the provider inside the consumer's call: whoever calls
// has applied all before the nil and nothing after it, so the state is exactly
// that of the cursor.
func (s *Subscription) makeSnapshot(r *rendezvous) ([]byte, error) {
	data, err := s.callProvider()
	if err != nil {
		s.report(fmt.Errorf("structure %s: snapshot of commit %d: %w", s.cfg.Structure, r.state.commits, err))
		return s.fallBack(r)
	}
	g := s.group.Load()
	if g == nil {
		return data, nil // the replica was removed meanwhile; the log that this was made of lives on elsewhere
	}
	ref, err := s.host.writeSnapshot(g, r.state, r.maker, data)
	if err != nil {
		// Nothing is lost: the log is still there, and the consumer's state is
		// the one that it has just shown us.
		s.report(fmt.Errorf("group %s: store snapshot of commit %d: %w", g.key, r.state.commits, err))
		return data, nil
	}
	g.call(func() { g.snaps.onMade(g, ref) })
	return data, nil
}

// fallBack returns the newest state that can be loaded, and has the commits
// after it delivered again. It goes on trying: a consumer that got an error
// instead would be handed commits that do not fit to its state.
func (s *Subscription) fallBack(r *rendezvous) ([]byte, error) {
	for {
		g := s.group.Load()
		if g != nil {
			data, at, err := s.loadBytes(g)
			if err == nil {
				r.rewind = at
				return data, nil
			}
			s.report(fmt.Errorf("group %s: load snapshot, will try again: %w", g.key, err))
			if s.manual {
				return nil, err
			}
		}
		if !s.pause(baseRetry) {
			return nil, fmt.Errorf("structure %s: %w", s.cfg.Structure, ErrClosed)
		}
	}
}

// loadBytes returns what a consumer can load, and the state behind it.
func (s *Subscription) loadBytes(g *Group) ([]byte, *state, error) {
	at, err := s.host.loadPoint(g)
	if err != nil {
		return nil, nil, err
	}
	if at.reader == nil {
		return findBase(g, at.state)
	}
	data, err := readSnapshot(at.reader)
	s.closeReader(at.reader)
	if err != nil {
		g.call(func() { g.refetch(at.ref, err) })
		return nil, nil, err
	}
	return data, at.state, nil
}

// errNoBase says that the apply cursor has not come to the base yet.
var errNoBase = errors.New("the base is not applied yet")

// findBase walks the log from its beginning to the base, and returns a copy of
// it with the state behind it.
func findBase(g *Group, s *state) ([]byte, *state, error) {
	c := &cursor{state: s}
	for {
		d, ok, err := c.next(g.store, g.applied.Load())
		switch {
		case err != nil:
			return nil, nil, err
		case d.kind == deliverBase:
			return append([]byte{}, d.base...), c.state, nil
		case d.kind == deliverPayloads:
			// Only a log without a base record: what it held is lost to this walk.
			return nil, nil, fmt.Errorf("group %s: %w: commits before a base", g.key, ErrMalformedEntry)
		case c.state.baseSet:
			return []byte{}, c.state, nil
		case !ok:
			return nil, nil, errNoBase
		}
	}
}

func readSnapshot(r *snapshot.Reader) ([]byte, error) {
	data := make([]byte, r.UserSize())
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	// The checks of the file's end run where the reader finds it.
	if _, err := r.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // io.Reader's contract
		if err == nil {
			err = io.ErrShortBuffer
		}
		return nil, err
	}
	return data, nil
}

func (s *Subscription) closeReader(r *snapshot.Reader) {
	if err := r.Close(); err != nil {
		s.host.cfg.Logger.Warn("close snapshot", "structure", s.cfg.Structure.String(), "error", err)
	}
}

// awaitBegin waits until delivery may begin, and brings the base if asked to.
// Nothing is delivered before a provider that was called for the base has
// returned.
func (s *Subscription) awaitBegin() bool {
	for {
		select {
		case <-s.begin:
			return true
		default:
		}
		select {
		case <-s.begin:
			return true
		case <-s.baseDue:
			if !s.bringBase() {
				return false
			}
		case <-s.news:
			if s.drainAt.Load() > 0 {
				select {
				case <-s.begin:
					return true
				default:
					return false // nothing was ever delivered, and nothing was sent
				}
			}
		case <-s.stop:
			return false
		}
	}
}

// bringBase calls the provider for the base until it answers, or somebody
// else's base was committed. False: the subscription ends.
func (s *Subscription) bringBase() bool {
	for {
		data, err, ok := s.askProvider()
		if !ok {
			return false
		}
		if err == nil && len(data) > maxBase {
			err = fmt.Errorf("%w: %d bytes, at most %d", ErrBaseTooLarge, len(data), maxBase)
		}
		if g := s.group.Load(); err == nil && g != nil {
			s.bring(g, data)
			return true
		}
		if err != nil {
			s.report(fmt.Errorf("structure %s: base: %w", s.cfg.Structure, err))
		}
		if !s.pauseForBase() {
			select {
			case <-s.begin:
				return true // with somebody else's base: what was sent may be committed, and is to be delivered
			default:
				return !s.leaving()
			}
		}
	}
}

// askProvider calls the provider while nothing has been delivered, and notes
// whether the consumer holds something. The provider is user code: a shutdown
// does not wait for it, and then ok is false.
func (s *Subscription) askProvider() (data []byte, err error, ok bool) { //nolint:revive // err is the provider's
	type result struct {
		data []byte
		err  error
	}
	got := make(chan result, 1)
	go func() {
		data, err := s.callProvider()
		got <- result{data, err}
	}()
	select {
	case r := <-got:
		s.answered(r.data, r.err)
		return r.data, r.err, true
	case <-s.stop:
	}
	grace := time.NewTimer(errorGrace)
	defer grace.Stop()
	select {
	case <-got:
	case <-grace.C:
		s.host.cfg.Logger.Error("snapshot provider has not returned, it is left behind", "structure", s.cfg.Structure.String())
	}
	return nil, nil, false
}

// answered notes what the provider said at the start. One that failed may hold
// something.
func (s *Subscription) answered(data []byte, err error) {
	s.brought.Store(err != nil || len(data) > 0)
	s.asked.Store(true)
}

// bring offers the group a base; it is proposed until one is committed.
func (s *Subscription) bring(g *Group, data []byte) {
	g.call(func() {
		s.base, s.baseReady, s.baseAt = data, true, time.Time{}
		g.tickSessions()
	})
}

// leaving reports whether the subscription ends, by its user or by the host.
func (s *Subscription) leaving() bool {
	select {
	case <-s.stop:
		return true
	default:
		return s.drainAt.Load() > 0
	}
}

// pauseForBase waits before the provider is asked again; false: it need not be.
func (s *Subscription) pauseForBase() bool {
	t := time.NewTimer(baseRetry)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return true
		case <-s.begin:
			return false
		case <-s.news:
			if s.leaving() {
				return false
			}
		case <-s.stop:
			return false
		}
	}
}

// callProvider calls the user's provider; a panic in it becomes an error, and
// one that does not return gives warnings.
func (s *Subscription) callProvider() (data []byte, err error) {
	watchdog := time.AfterFunc(s.cfg.ProviderPatience, func() {
		s.report(fmt.Errorf("structure %s: %w for %s; it must not want a lock that the consumer holds", s.cfg.Structure, ErrProviderSlow, s.cfg.ProviderPatience))
	})
	defer watchdog.Stop()
	defer func() {
		if p := recover(); p != nil {
			data, err = nil, fmt.Errorf("%w: panic: %v", ErrProvider, p)
		}
	}()
	data, err = s.cfg.Provider()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	if data == nil {
		data = []byte{}
	}
	return data, nil
}
