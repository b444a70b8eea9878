package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"

	"github.com/copycat-replication/copycat"
	"github.com/copycat-replication/copycat/examples/distmap/mappb"
)

// Errors of a Map, beside those of CopyCat that reach its callers.
var (
	// ErrNotMade says that a change was not made, and will not be.
	ErrNotMade = errors.New("the change was not made")
	// ErrStale says that a snapshot could not be loaded: this copy has missed
	// changes, and is of no use until a later snapshot is.
	ErrStale = errors.New("this copy has missed changes")
)

// Map is one node's copy of the distributed hashmap. Changes go to CopyCat and
// take effect when they come back; reads answer from the copy at hand, which
// may be behind those of other nodes. All methods are safe for concurrent use.
type Map struct {
	writer  []byte // tells this Map's own changes from others'
	propose chan<- []byte
	commits <-chan []byte
	errs    <-chan error
	consume copycat.SnapshotConsumer
	log     *slog.Logger

	closing chan struct{}  // closed: no more changes are taken
	served  chan struct{}  // closed: the subscription has ended
	senders sync.WaitGroup // who may be sending on propose

	// mu guards what follows. It is held neither while sending to CopyCat nor
	// while calling it.
	mu      sync.RWMutex
	data    map[string]string // written by the serving goroutine alone
	stale   error             // why data is of no use
	loads   int               // snapshots loaded
	applies int               // changes applied
	changed chan struct{}     // closed and replaced whenever data has changed
	waiting map[uint64]chan<- error
	request uint64 // the last number given to a change
	closed  bool
}

// Subscribe makes this node's copy of the map with that ID.
func Subscribe(cc copycat.CopyCat, id string, log *slog.Logger) (*Map, error) {
	m := newMap(log)
	var err error
	m.propose, m.commits, m.errs, m.consume, err = cc.SubscribeToDataStructureWithStringID(id, m.snapshot)
	if err != nil {
		return nil, fmt.Errorf("subscribe to the map: %w", err)
	}
	go m.serve() // until the subscription ends; Close waits for it
	return m, nil
}

func newMap(log *slog.Logger) *Map {
	m := &Map{
		writer: make([]byte, 16), log: log,
		closing: make(chan struct{}), served: make(chan struct{}),
		data: make(map[string]string), changed: make(chan struct{}), waiting: make(map[uint64]chan<- error),
	}
	rand.Read(m.writer) // never fails
	return m
}

// Get returns this copy's value of a key, and whether there is one.
func (m *Map) Get(key string) (value string, ok bool, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	value, ok = m.data[key]
	return value, ok, m.stale
}

// All returns a copy of the whole map.
func (m *Map) All() (map[string]string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return maps.Clone(m.data), m.stale
}

// Received returns how many snapshots this copy has loaded, and how many
// changes it has applied.
func (m *Map) Received() (snapshots, changes int) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.loads, m.applies
}

// Put sets a key, and returns when the change has come back from CopyCat: it is
// on the disks of a majority then, and this copy has it.
//
// If it has not come back when ctx ends, the error is ErrNotMade if CopyCat has
// not even taken it, and copycat.ErrOutcomeUnknown otherwise: it may be made yet.
func (m *Map) Put(ctx context.Context, key, value string) error {
	return m.change(ctx, &mappb.Operation{Key: key, Value: value})
}

// Delete removes a key; see Put.
func (m *Map) Delete(ctx context.Context, key string) error {
	return m.change(ctx, &mappb.Operation{Key: key, Delete: true})
}

// change sends an operation and waits for it to come back.
func (m *Map) change(ctx context.Context, op *mappb.Operation) error {
	done, err := m.register(op)
	if err != nil {
		return err
	}
	defer m.forget(op.Request)
	if err := m.send(ctx, op); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done: // at the last moment
		return err
	default:
		return fmt.Errorf("%w: its commit has not come back: %w", copycat.ErrOutcomeUnknown, ctx.Err())
	}
}

// register numbers an operation and notes who waits for it.
func (m *Map) register(op *mappb.Operation) (<-chan error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("%w: %w", ErrNotMade, copycat.ErrClosed)
	}
	m.senders.Add(1) // before Close can wait for them
	m.request++
	op.Writer, op.Request = m.writer, m.request
	done := make(chan error, 1)
	m.waiting[op.Request] = done
	return done, nil
}

func (m *Map) forget(request uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.waiting, request)
}

// send hands an operation to CopyCat. The propose channel blocks while too much
// waits for its fate, and for good after a shutdown.
func (m *Map) send(ctx context.Context, op *mappb.Operation) error {
	defer m.senders.Done()
	proposal, err := op.Marshal()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotMade, err)
	}
	select {
	case m.propose <- proposal: // the bytes are CopyCat's now
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: the propose channel is full: %w", ErrNotMade, ctx.Err())
	case <-m.closing:
	case <-m.served:
	}
	return fmt.Errorf("%w: %w", ErrNotMade, copycat.ErrClosed)
}

// serve is the one goroutine that receives from CopyCat. The error channel is
// closed after the commit channel; so both are read to their end.
func (m *Map) serve() {
	commits, errs := m.commits, m.errs
	for commits != nil || errs != nil {
		select {
		case commit, ok := <-commits:
			switch {
			case !ok:
				commits = nil
			case commit == nil:
				m.reload()
			default:
				m.apply(commit)
			}
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			m.fail(err)
		}
	}
	m.end()
}

// apply makes one committed change, and tells whoever waits for it.
func (m *Map) apply(commit []byte) {
	op := &mappb.Operation{}
	if err := op.Unmarshal(commit); err != nil {
		// The same bytes arrive everywhere, so every copy skips them.
		m.log.Error("commit is not an operation", "bytes", len(commit), "error", err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if op.Delete {
		delete(m.data, op.Key)
	} else {
		m.data[op.Key] = op.Value
	}
	m.applies++
	m.announceLocked()
	m.settleLocked(op, nil)
}

// reload answers a nil on the commit channel. The lock is not held around the
// call, since CopyCat may call the provider in it.
//
// Changes of our own that a snapshot swallowed never come back by themselves:
// who waits for one hears that its outcome is unknown when its time is up.
func (m *Map) reload() {
	snapshot, err := m.consume()
	loaded := &mappb.ReplicatMap{}
	if err == nil {
		err = loaded.Unmarshal(snapshot)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.stale = fmt.Errorf("%w: snapshot not loaded: %w", ErrStale, err)
		m.log.Error("snapshot not loaded", "error", err)
		return
	}
	m.stale, m.data = nil, loaded.M
	if m.data == nil { // an empty map and no map look alike in protobuf
		m.data = make(map[string]string)
	}
	m.loads++
	m.announceLocked()
}

// snapshot is the SnapshotProvider. CopyCat calls it before anything is
// delivered, or inside m.consume, which the serving goroutine has called: either
// way nobody writes to the map, and reading it needs no lock.
func (m *Map) snapshot() ([]byte, error) {
	if m.stale != nil {
		return nil, m.stale // CopyCat hands us an older snapshot, and what came after it, again
	}
	return (&mappb.ReplicatMap{M: m.data}).Marshal()
}

// fail takes an error from the error channel: about one of our changes, or a warning.
func (m *Map) fail(err error) {
	var rejected *copycat.ProposalError
	op := &mappb.Operation{}
	if !errors.As(err, &rejected) || op.Unmarshal(rejected.Proposal) != nil {
		m.log.Warn("subscription", "error", err)
		return
	}
	if !errors.Is(err, copycat.ErrOutcomeUnknown) {
		err = fmt.Errorf("%w: %w", ErrNotMade, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settleLocked(op, err)
}

// settleLocked tells whoever waits for an operation what became of it.
func (m *Map) settleLocked(op *mappb.Operation, err error) {
	if !bytes.Equal(op.Writer, m.writer) {
		return // somebody else's
	}
	if done := m.waiting[op.Request]; done != nil {
		delete(m.waiting, op.Request)
		done <- err // has room for it
	}
}

// announceLocked wakes those that wait in WaitFor.
func (m *Map) announceLocked() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// end settles what is left when the subscription has ended.
func (m *Map) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for request, done := range m.waiting {
		delete(m.waiting, request)
		done <- fmt.Errorf("%w: the subscription has ended", copycat.ErrOutcomeUnknown)
	}
	close(m.served)
}

// WaitFor returns when this copy satisfies a condition, with ctx's error if it
// does not in time. The condition must not keep the map, change it or block.
func (m *Map) WaitFor(ctx context.Context, condition func(map[string]string) bool) error {
	for {
		m.mu.RLock()
		ok, changed := m.stale == nil && condition(m.data), m.changed
		m.mu.RUnlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-m.served:
			return copycat.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close unsubscribes, and waits until what was sent has come back or was
// reported: without a majority of the map's voters that can take for ever, so
// it stops waiting when ctx ends. The node's Shutdown ends what is left.
func (m *Map) Close(ctx context.Context) error {
	m.mu.Lock()
	first := !m.closed
	m.closed = true
	m.mu.Unlock()
	if first {
		close(m.closing)
		m.senders.Wait()
		close(m.propose) // unsubscribes
	}
	select {
	case <-m.served:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close the map: %w", ctx.Err())
	}
}
