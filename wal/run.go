package wal

import (
	"errors"
	"sync"
	"time"
)

// idleSeal is how long nothing is written before the committer seals.
const idleSeal = 50 * time.Millisecond

// spaceEvery is how often the committer looks at the free space at least, while
// it writes. Others who write 2 GB/s take a fifth of the default reserve in it.
const spaceEvery = 20 * time.Millisecond

// runners are the goroutines that Start starts: the committer, which flushes
// when something is queued and seals when it is idle, and the reclaimer,
// which frees segments beside it, so that a slow cold store delays no commit.
type runners struct {
	mu      sync.Mutex
	started bool
	stopped bool
	done    chan struct{}
	work    chan struct{}
	reclaim chan struct{}
	wg      sync.WaitGroup
}

func (r *runners) init() {
	r.done = make(chan struct{})
	r.work = make(chan struct{}, 1)
	r.reclaim = make(chan struct{}, 1)
}

func (r *runners) wake() {
	select {
	case r.work <- struct{}{}:
	default:
	}
}

func (r *runners) wakeReclaim() {
	select {
	case r.reclaim <- struct{}{}:
	default:
	}
}

// stop ends the goroutines and waits for them.
func (r *runners) stop() {
	r.mu.Lock()
	if !r.stopped {
		r.stopped = true
		close(r.done)
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// Start starts the committer and the reclaimer; Close stops them. Without it
// the caller calls Flush, Seal and Reclaim itself, as a simulation does.
func (l *Log) Start() {
	r := &l.run
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started || r.stopped {
		return
	}
	r.started = true
	r.wg.Go(l.commitLoop)
	r.wg.Go(l.reclaimLoop)
}

func (l *Log) commitLoop() {
	r := &l.run
	idle := time.NewTimer(idleSeal)
	defer idle.Stop()
	var looked time.Time
	for {
		select {
		case <-r.done:
			return
		case <-r.work:
			for {
				now := time.Now()
				look := now.Sub(looked) >= spaceEvery
				if look {
					looked = now
				}
				n, err := l.flush(look)
				if err != nil && !errors.Is(err, ErrDiskFull) {
					l.logger.Debug("wal: flush", "error", err)
				}
				if n == 0 {
					break
				}
			}
			idle.Reset(idleSeal)
		case <-idle.C:
			if err := l.Seal(); err != nil {
				l.logger.Warn("wal: seal", "error", err)
			}
		}
	}
}

func (l *Log) reclaimLoop() {
	r := &l.run
	trim := time.NewTicker(spareTime)
	defer trim.Stop()
	for {
		select {
		case <-r.done:
			return
		case <-trim.C:
			l.trimSpares()
			continue
		case <-r.reclaim:
		}
		for more := true; more; {
			var err error
			if more, err = l.Reclaim(); err != nil {
				l.logger.Warn("wal: reclaim", "error", err)
				break
			}
			select {
			case <-r.done:
				return
			default:
			}
		}
	}
}
