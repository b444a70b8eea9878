package raftgroup

import "sync"

// jobWorkers is how many snapshot transfers and file operations run at once.
const jobWorkers = 4

// jobQueue runs what must not run in a step because it waits for a disk or a
// peer. Each group has at most a few jobs outstanding, which bounds it.
type jobQueue struct {
	mu     sync.Mutex
	wake   *sync.Cond
	jobs   []func()
	closed bool
	pool   sync.WaitGroup
}

func newJobQueue() *jobQueue {
	q := &jobQueue{}
	q.wake = sync.NewCond(&q.mu)
	return q
}

func (q *jobQueue) start(workers int) {
	for range workers {
		q.pool.Go(func() {
			for q.runOne(true) {
			}
		})
	}
}

func (q *jobQueue) add(job func()) {
	q.mu.Lock()
	if !q.closed {
		q.jobs = append(q.jobs, job)
	}
	q.mu.Unlock()
	q.wake.Signal()
}

// runOne runs the first job; without one it waits, or reports false.
func (q *jobQueue) runOne(wait bool) bool {
	q.mu.Lock()
	for len(q.jobs) == 0 && wait && !q.closed {
		q.wake.Wait()
	}
	if len(q.jobs) == 0 || q.closed {
		q.mu.Unlock()
		return false
	}
	job := q.jobs[0]
	q.jobs[0] = nil
	q.jobs = q.jobs[1:]
	q.mu.Unlock()
	job()
	return true
}

// stop ends the workers after their present job; what waits is dropped.
func (q *jobQueue) stop() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wake.Broadcast()
	q.pool.Wait()
}
