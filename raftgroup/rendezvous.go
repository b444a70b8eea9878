package raftgroup

import (
	"errors"
	"fmt"
	"io"

	"github.com/copycat-replication/copycat/snapshot"
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

	rewind *state        // set by a make that failed: delivery goes on after this
	failed bool          // nothing could be returned, and nothing follows
	handed chan struct{} // closed: the nil is in the commit channel, or was
	done   chan struct{}
}

// Consume is the SnapshotConsumer: to be called once for each nil on the
// commit channel, by the goroutine that read it. It returns the bytes to load,
// which belong to the caller.
func (s *Subscription) Consume() ([]byte, error) {
	r, over := s.takeDue()
	if r == nil {
		if over {
			return nil, fmt.Errorf("structure %s: %w", s.cfg.Structure, ErrClosed)
		}
		return nil, fmt.Errorf("structure %s: %w", s.cfg.Structure, ErrNoSnapshotDue)
	}
	data, err := s.serve(r)
	if err != nil && s.manual && !r.failed {
		s.mu.Lock()
		s.due = r // to be tried again
		s.mu.Unlock()
		return nil, err
	}
	close(r.done)
	return data, err
}

// takeDue takes the outstanding nil, if the consumer has received it; over: none
// comes any more. A consumer that calls before that has commits in its channel
// which it has not applied: a snapshot of its state would lack them.
func (s *Subscription) takeDue() (r *rendezvous, over bool) {
	s.mu.Lock()
	r = s.due
	s.mu.Unlock()
	received := r != nil && s.received(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	over = s.over || s.stopped
	if !received || s.due != r {
		return nil, over
	}
	s.due = nil
	return r, over
}

// received reports whether a nil was taken out of the commit channel. Nothing
// is sent behind it, so the channel is empty then.
func (s *Subscription) received(r *rendezvous) bool {
	if s.manual {
		return true
	}
	if len(s.commitCh) > 0 {
		return false
	}
	// The channel is empty: if the nil is not in it yet, it is being sent, and
	// that has room.
	select {
	case <-r.handed:
	case <-s.stop:
		if !over(r.handed) {
			return false
		}
	}
	return len(s.commitCh) == 0
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
	returned := false
	defer func() {
		if !returned { // and nobody consumes any more
			s.report(fmt.Errorf("structure %s: snapshot of commit %d: %w", s.cfg.Structure, r.state.commits, errExited))
		}
	}()
	data, err := s.callProvider()
	returned = true
	if err != nil {
		s.report(fmt.Errorf("structure %s: snapshot of commit %d: %w", s.cfg.Structure, r.state.commits, err))
		return s.fallBack(r)
	}
	g := s.group.Load()
	if g == nil {
		return data, nil // the replica was removed meanwhile; the log that this was made of lives on elsewhere
	}
	ref, err := s.host.writeSnapshot(g, r.state, r.maker, data, !s.manual)
	if err != nil && s.host.ctx.Err() != nil {
		return data, nil // cut short by the shutdown: another one is made
	}
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
// after it delivered again. It goes on trying, unless nothing can come any more: a
// consumer that got an error instead would be handed commits that do not fit to
// its state.
func (s *Subscription) fallBack(r *rendezvous) ([]byte, error) {
	for {
		g := s.group.Load()
		switch {
		case g != nil:
			data, at, err := s.loadBytes(g)
			if err == nil {
				r.rewind = at
				return data, nil
			}
			s.report(fmt.Errorf("group %s: load snapshot, will try again: %w", g.key, err))
			if s.manual {
				return nil, err
			}
		case s.hopeless():
			r.failed = true
			return nil, fmt.Errorf("structure %s: %w: %w", s.cfg.Structure, ErrClosed, s.why())
		case s.manual:
			return nil, fmt.Errorf("structure %s: %w", s.cfg.Structure, ErrUnknownGroup)
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
