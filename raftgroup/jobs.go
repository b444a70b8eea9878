package raftgroup

import (
	"sync"

	"github.com/copycat-replication/copycat/id"
)

const (
	// transferWorkers is how many snapshots this node fetches at once, beside
	// those for replicas that it is getting (maxJoins). A link is filled by one.
	transferWorkers = 4
	// fileWorkers is how many groups have old files removed at once.
	fileWorkers = 2
	// callWorkers is how many calls to other nodes wait for their answers at
	// once: each for Config.CallTimeout at most.
	callWorkers = 8
)

// jobs is what must not run in a step because it waits for a disk or a peer.
// Each kind of waiting has a queue and workers of its own: transfers, which may
// take hours, must keep neither a file's removal nor a call of a second waiting,
// and calls to nodes that do not answer must not keep transfers out.
//
// What bounds the queues: a group has two transfers at most (one wanted, one
// offered, see fetchSnapshot), one removal of old files and one of half-made ones
// that have not begun, and one call to each node that it asks to host a replica.
type jobs struct {
	transfers, files, calls *jobQueue
}

func newJobs() jobs {
	return jobs{transfers: newJobQueue(), files: newJobQueue(), calls: newJobQueue()}
}

func (j jobs) start() {
	j.transfers.start(transferWorkers)
	j.files.start(fileWorkers)
	j.calls.start(callWorkers)
}

// stop ends the workers after their present jobs; what waits is dropped.
func (j jobs) stop() {
	for _, q := range []*jobQueue{j.transfers, j.files, j.calls} {
		q.close()
	}
	for _, q := range []*jobQueue{j.transfers, j.files, j.calls} {
		q.pool.Wait()
	}
}

// runOne runs one job that waits, on the calling goroutine; false: none does.
func (j jobs) runOne() bool {
	return j.transfers.runOne(false) || j.files.runOne(false) || j.calls.runOne(false)
}

// waiting reports whether a job waits.
func (j jobs) waiting() bool {
	for _, q := range []*jobQueue{j.transfers, j.files, j.calls} {
		q.mu.Lock()
		n := len(q.jobs)
		q.mu.Unlock()
		if n > 0 {
			return true
		}
	}
	return false
}

// hostRequest names the call that asks a node to host a replica of a structure.
type hostRequest struct {
	node      id.Node
	structure id.Structure
}

// jobQueue is a line of jobs and the workers that run them.
type jobQueue struct {
	mu     sync.Mutex
	wake   *sync.Cond
	jobs   []job
	keys   map[any]struct{}
	closed bool
	pool   sync.WaitGroup
}

// job is one job; key, if not nil, is what it is known by.
type job struct {
	run  func()
	key  any
	hold bool // the key is taken until the job has ended, not until it begins
}

func newJobQueue() *jobQueue {
	q := &jobQueue{keys: make(map[any]struct{})}
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

// add queues a job.
func (q *jobQueue) add(run func()) { q.put(job{run: run}) }

// addOnce queues a job unless one with that key waits. One that runs may have
// seen less than the new one would.
func (q *jobQueue) addOnce(key any, run func()) { q.put(job{run: run, key: key}) }

// addAlone queues a job unless one with that key waits or runs.
func (q *jobQueue) addAlone(key any, run func()) { q.put(job{run: run, key: key, hold: true}) }

func (q *jobQueue) put(j job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if j.key != nil {
		if _, there := q.keys[j.key]; there {
			return
		}
		q.keys[j.key] = struct{}{}
	}
	q.jobs = append(q.jobs, j)
	q.wake.Signal()
}

// runOne runs the first job; without one it waits, or reports false. It reports
// false when the queue is closed.
func (q *jobQueue) runOne(wait bool) bool {
	q.mu.Lock()
	for len(q.jobs) == 0 && wait && !q.closed {
		q.wake.Wait()
	}
	if len(q.jobs) == 0 || q.closed {
		q.mu.Unlock()
		return false
	}
	j := q.jobs[0]
	q.jobs[0] = job{}
	q.jobs = q.jobs[1:]
	if !j.hold {
		delete(q.keys, j.key)
	}
	q.mu.Unlock()
	j.run()
	if j.hold {
		q.mu.Lock()
		delete(q.keys, j.key)
		q.mu.Unlock()
	}
	return true
}

// close drops what waits, and has the workers end after their present job.
func (q *jobQueue) close() {
	q.mu.Lock()
	q.closed, q.jobs = true, nil
	q.mu.Unlock()
	q.wake.Broadcast()
}
