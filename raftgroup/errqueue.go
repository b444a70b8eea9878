package raftgroup

import (
	"sync"
	"time"
)

const (
	errorBuffer = 64
	maxWarnings = 32
	// errorGrace is how long an ending subscription waits for somebody to read
	// its last errors; errorPatience, how long for somebody who reads and is slow.
	errorGrace    = time.Second
	errorPatience = 5 * time.Second
)

// errorQueue feeds the error channel. Errors about proposals are never dropped
// while the subscription lives: each holds its place in the proposer's window
// until it is handed over. Why the subscription ends, and that something was not
// delivered, is never dropped either: that is one error each. Of warnings the
// oldest go when nobody reads.
type errorQueue struct {
	out  chan error
	done chan struct{} // closed: run has ended

	mu        sync.Mutex
	proposals []proposalErr
	ends      []error // at most two
	warnings  []error
	dropped   uint64
	taken     uint64 // how many errors have waited for room in out, and have got it
	sealed    bool
	more      chan struct{} // cap 1
	emptied   chan struct{} // closed when all so far is handed over; nil: nobody waits for that
	giveUp    chan struct{} // closed: nobody reads any more
}

type proposalErr struct {
	err  error
	read func()
}

func newErrorQueue() *errorQueue {
	return &errorQueue{
		out: make(chan error, errorBuffer), done: make(chan struct{}),
		more: make(chan struct{}, 1), giveUp: make(chan struct{}),
	}
}

// proposal queues an error about a proposal; read is called when it is handed over.
func (q *errorQueue) proposal(err error, read func()) {
	q.mu.Lock()
	q.proposals = append(q.proposals, proposalErr{err, read})
	q.mu.Unlock()
	q.signal()
}

// end queues an error that a subscription has once in its life.
func (q *errorQueue) end(err error) {
	q.mu.Lock()
	q.ends = append(q.ends, err)
	q.mu.Unlock()
	q.signal()
}

// warn queues a warning.
func (q *errorQueue) warn(err error) {
	q.mu.Lock()
	if len(q.warnings) == maxWarnings {
		q.warnings = q.warnings[1:]
		q.dropped++
	}
	q.warnings = append(q.warnings, err)
	q.mu.Unlock()
	q.signal()
}

func (q *errorQueue) signal() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// next takes the next error; last reports that nothing more will come.
func (q *errorQueue) next() (e proposalErr, ok, last bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case len(q.proposals) > 0:
		e, ok = q.proposals[0], true
		q.proposals[0] = proposalErr{}
		q.proposals = q.proposals[1:]
	case len(q.ends) > 0:
		e, ok = proposalErr{err: q.ends[0]}, true
		q.ends = q.ends[1:]
	case len(q.warnings) > 0:
		e, ok = proposalErr{err: q.warnings[0]}, true
		q.warnings = q.warnings[1:]
	}
	if !ok && q.emptied != nil {
		close(q.emptied)
		q.emptied = nil
	}
	return e, ok, !ok && q.sealed
}

// run hands errors over until the queue is sealed and empty, or nobody reads.
func (q *errorQueue) run() {
	defer close(q.done)
	for {
		e, ok, last := q.next()
		switch {
		case last:
			return
		case !ok:
			<-q.more
			continue
		}
		select {
		case q.out <- e.err: // as long as there is room, whoever reads
		default:
			select {
			case q.out <- e.err:
				q.mu.Lock()
				q.taken++
				q.mu.Unlock()
			case <-q.giveUp:
				q.mu.Lock()
				q.dropped++
				q.mu.Unlock()
				return
			}
		}
		if e.read != nil {
			e.read()
		}
	}
}

// await waits for what has come so far to be handed over: a moment if nobody reads,
// and longer for somebody who does. It reports whether all was.
func (q *errorQueue) await() bool {
	emptied := make(chan struct{})
	q.mu.Lock()
	q.emptied = emptied
	q.mu.Unlock()
	q.signal()
	grace := time.NewTimer(errorGrace)
	defer grace.Stop()
	for waited, before := errorGrace, q.reads(); ; waited += errorGrace {
		select {
		case <-emptied:
			return true
		case <-grace.C:
		}
		now := q.reads()
		if now == before || waited >= errorPatience {
			return false
		}
		before = now
		grace.Reset(errorGrace)
	}
}

// reads tells how often somebody has made room in the full channel.
func (q *errorQueue) reads() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.taken
}

// seal says that nothing more comes.
func (q *errorQueue) seal() {
	q.mu.Lock()
	q.sealed = true
	q.mu.Unlock()
	q.signal()
}

// finish waits until all is read, or until the host shuts down, and closes the
// channel. It returns how many errors nobody got to see.
func (q *errorQueue) finish(stop <-chan struct{}) uint64 {
	select {
	case <-q.done:
	case <-stop:
		close(q.giveUp)
		<-q.done
	}
	close(q.out)
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped + uint64(len(q.proposals)+len(q.ends)+len(q.warnings))
}
