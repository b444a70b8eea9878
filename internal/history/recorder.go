package history

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Recorder takes down what happens in one process (or in a whole simulation).
// It is safe for concurrent use.
//
// Without a writer it keeps everything in memory, for History. With one it
// keeps nothing, and writes each event as one line with one call of Write: with
// a file, what was recorded before a SIGKILL is there after it.
type Recorder struct {
	clock func() time.Time
	seq   atomic.Uint64

	mu       sync.Mutex // held over Write: recording waits for the file, by intent
	journals map[Subscriber]*Journal
	nodes    []Event
	folds    map[foldKey]*Fold // in memory: equal folds are kept once
	out      *lineWriter       // nil: in memory
}

type foldKey struct {
	n      int
	digest uint64
}

// NewRecorder makes a recorder. The clock is called with locks held, and must
// not block. w may be nil.
func NewRecorder(clock func() time.Time, w io.Writer) *Recorder {
	r := &Recorder{clock: clock, journals: make(map[Subscriber]*Journal), folds: make(map[foldKey]*Fold)}
	if w != nil {
		r.out = newLineWriter(w)
	}
	return r
}

// Err returns the first error of the writer: the recording is incomplete.
func (r *Recorder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out == nil {
		return nil
	}
	return r.out.err
}

// Open begins the log of a subscription. A subscriber is opened once.
func (r *Recorder) Open(s Subscriber) (*Journal, error) {
	if !s.Valid() {
		return nil, fmt.Errorf("%w: subscriber %+v: a number is too large", ErrMalformed, s)
	}
	r.mu.Lock()
	if r.journals[s] != nil {
		r.mu.Unlock()
		return nil, fmt.Errorf("%w: subscriber %s is open already", ErrMalformed, s)
	}
	j := &Journal{r: r, sub: s, open: make(map[ID]struct{})}
	r.journals[s] = j
	r.mu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.recordLocked(Event{Kind: KindOpened})
	return j, nil
}

// Crash records that a node's process ended without a word: its subscribers are gone.
func (r *Recorder) Crash(node uint16, process uint32) {
	r.node(Event{Kind: KindCrash, Extra: &Extra{Node: node, Process: process}})
}

// Start records that a node's process started: earlier ones are gone.
func (r *Recorder) Start(node uint16, process uint32) {
	r.node(Event{Kind: KindStart, Extra: &Extra{Node: node, Process: process}})
}

// Wipe records that a node's data directory was removed, and its process with it.
func (r *Recorder) Wipe(node uint16, process uint32) {
	r.node(Event{Kind: KindWipe, Extra: &Extra{Node: node, Process: process}})
}

// FaultStart records that something was broken on purpose.
func (r *Recorder) FaultStart(what string) {
	r.node(Event{Kind: KindFaultStart, Extra: &Extra{Text: what}})
}

// FaultStop records that it was mended.
func (r *Recorder) FaultStop(what string) {
	r.node(Event{Kind: KindFaultStop, Extra: &Extra{Text: what}})
}

// Calm records that the faults are over: from here on proposals must go through.
func (r *Recorder) Calm() { r.node(Event{Kind: KindCalm}) }

// End records that the rig has stopped to propose, has given everything the
// time to converge, and stops. Without it the checker asserts nothing about
// what is missing.
func (r *Recorder) End() { r.node(Event{Kind: KindEnd}) }

// Stored records a snapshot that a node keeps, under the N that it is labelled
// with. The bytes stay the caller's.
func (r *Recorder) Stored(structure, node uint16, n uint64, snapshot []byte) {
	x := &Extra{Structure: structure, Node: node}
	var s State
	if err := s.Load(snapshot); err != nil {
		x.Text = err.Error()
	} else {
		x.Fold = s.Fold()
	}
	r.node(Event{Kind: KindStored, N: n, Extra: x})
}

func (r *Recorder) node(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stampLocked(&e)
	if r.out != nil {
		r.out.write(nil, &e)
		return
	}
	r.nodes = append(r.nodes, e)
}

func (r *Recorder) stampLocked(e *Event) {
	e.At, e.Seq = r.clock().UnixNano(), r.seq.Add(1)
	f := e.fold()
	if f == nil || r.out != nil {
		return
	}
	k := foldKey{len(f.IDs), f.Digest}
	if known := r.folds[k]; known != nil && slices.Equal(known.IDs, f.IDs) {
		e.Extra.Fold = known
		return
	}
	r.folds[k] = f
}

// History returns what was recorded so far. It is empty if there is a writer.
func (r *Recorder) History() *History {
	r.mu.Lock()
	h := &History{Nodes: slices.Clone(r.nodes)}
	journals := make([]*Journal, 0, len(r.journals))
	for _, j := range r.journals {
		journals = append(journals, j)
	}
	r.mu.Unlock()
	for _, j := range journals {
		j.mu.Lock()
		if len(j.events) > 0 {
			h.Logs = append(h.Logs, Log{Sub: j.sub, Events: slices.Clone(j.events)})
		}
		j.mu.Unlock()
	}
	h.sort()
	return h
}
