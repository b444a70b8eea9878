package raftgroup

import (
	"errors"
	"fmt"
	"time"

	"github.com/copycat-replication/copycat/wal"
)

// deliverer is a subscription's way through the committed log: it says what to
// hand out next, and never waits itself. The subscription's goroutine drives
// it, or a simulation does.
type deliverer struct {
	sub   *Subscription
	g     *Group // whose log it walks
	c     cursor
	ready [][]byte    // to be handed out next
	met   *rendezvous // the outstanding nil: nothing follows before it is served
	moved bool        // to another replica's log, and nothing was read there yet
	over  *bridge     // what is missing before that log begins is on its way; nil: it is not
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
		if d.met.failed {
			return nil, d.end()
		}
		if d.met.rewind != nil {
			d.place(d.met.rewind) // delivery follows what the consumer has got
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
	if d.drained() {
		return d.end()
	}
	switch now := s.group.Load(); {
	case now == nil: // the replica was removed; another one is being made
		if s.hopeless() {
			return d.end()
		}
		return stepWait
	case d.g == nil:
		return d.jump(now, true)
	case now != d.g:
		// Another replica has taken the place of the one before. The log is the
		// same, and so is the cursor's place in it, if this replica's begins before.
		d.g, d.c.ahead, d.moved, d.over = now, nil, true, nil
	}
	d.c.mine, d.c.holds = s.session.Load(), s.brought.Load()
	e, ok, err := d.c.next(d.g.store, d.g.applied.Load())
	switch {
	case errors.Is(err, wal.ErrCompacted):
		return d.cross()
	case errors.Is(err, wal.ErrDamage) && d.g.Status().Snapshot.Index > d.c.state.index:
		// The entry is being fetched from another replica; a snapshot is here.
		return d.jump(d.g, false)
	case err != nil:
		s.report(fmt.Errorf("group %s: delivery after %d: %w", d.g.key, d.c.state.index, err))
		return stepPause
	case !ok:
		if d.g.Status().Failed && s.hopeless() {
			return d.end()
		}
		return stepWait
	}
	d.moved = false
	s.at.Store(d.c.state.index)
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

// come is the index of the entry that delivery has come to.
func (d *deliverer) come() uint64 {
	if d.c.state == nil {
		return 0
	}
	return d.c.state.index
}

// drained reports whether a subscription that ends has been handed all that it
// is to be handed.
func (d *deliverer) drained() bool {
	at := d.sub.drainAt.Load()
	return at > 0 && d.come()+1 >= at
}

// end ends delivery, and says so if something is missing.
func (d *deliverer) end() step {
	s := d.sub
	if owed, come := s.owed.Load(), d.come(); come < owed {
		s.errs.end(fmt.Errorf("structure %s: %w: the last is entry %d, delivery ended at %d", s.cfg.Structure, ErrUndelivered, owed, come))
	}
	return stepEnd
}

// meet makes a nil due.
func (d *deliverer) meet(r *rendezvous) step {
	r.done, r.handed = make(chan struct{}), make(chan struct{})
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
		d.place(at.state)
		if start && at.reader.UserSize() == 0 && !d.c.holds {
			s.closeReader(at.reader)
			return 0
		}
		return d.meet(&rendezvous{reader: at.reader, ref: at.ref})
	case start:
		d.g = g
		d.place(at.state)
		return 0
	}
	// The frame that has let go of the log names the group's first snapshot, and
	// the replica's step has not heard yet that it is durable.
	return stepPause
}

// place puts the cursor behind another entry.
func (d *deliverer) place(at *state) {
	d.c.reset(at)
	d.sub.at.Store(at.index)
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
	s.drive(&deliverer{sub: s})
}

// drive hands out until there is nothing more, or the host shuts down.
func (s *Subscription) drive(d *deliverer) {
	defer d.leave()
	for {
		p, st := d.next()
		ok := true
		switch st {
		case stepHand:
			if ok = s.sendCommit(p); ok && d.met != nil {
				close(d.met.handed)
			}
		case stepWait:
			ok = s.awaitNews(d)
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
	if s.trySend(p) {
		return true
	}
	patience := s.startPatience()
	defer patience.Stop()
	var look *time.Timer
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		to, again := s.commitCh, (<-chan time.Time)(nil)
		if !s.out.fits(len(p)) {
			if look == nil {
				look = time.NewTimer(pause)
				defer look.Stop()
			} else {
				look.Reset(pause)
			}
			to, again = nil, look.C
		}
		select {
		case to <- p:
			s.out.sent(len(p))
			return true
		case <-again:
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

// awaitNews waits until something may have changed, or the consumer has answered
// the outstanding nil. False: the host shuts down.
func (s *Subscription) awaitNews(d *deliverer) bool {
	met := d.met
	if met == nil {
		s.direct.rest(d)
		defer s.direct.resume()
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
			s.mu.Lock()
			called := s.due != met // and takes its time, as large snapshots do
			s.mu.Unlock()
			if called {
				continue
			}
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
