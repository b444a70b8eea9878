package sim

import (
	"context"
	"runtime"
	"time"
)

// task is something that waits: a goroutine of its own, of which only one runs
// at a time, and only while the loop stands still. So everything stays on one
// thread in effect, and in the order of the seed.
type task struct {
	n      *node
	life   uint64
	resume chan struct{}
	ready  func() bool
}

// scheduler runs tasks between events.
type scheduler struct {
	parked  []*task // in the order in which they parked
	running *task
	yield   chan struct{}
}

// tasks are a node's; they end with its process.
type tasks struct{ n *node }

// Go starts a task; it first runs when the present event is over.
func (t tasks) Go(f func()) {
	s := t.n.s
	k := &task{n: t.n, life: t.n.life, resume: make(chan struct{}), ready: func() bool { return true }}
	go func() {
		defer func() { s.sched.yield <- struct{}{} }()
		<-k.resume
		if k.alive() {
			f()
		}
	}()
	s.sched.parked = append(s.sched.parked, k)
}

func (k *task) alive() bool { return k.n.up && k.n.life == k.life && k.n.after == nil }

// Await parks the running task.
func (t tasks) Await(ctx context.Context, done <-chan struct{}) error {
	s := t.n.s
	k := s.sched.running // Await's contract: only tasks wait
	k.ready = func() bool {
		select {
		case <-done:
			return true
		default:
			return ctx.Err() != nil
		}
	}
	s.park(k)
	select {
	case <-done:
		return nil
	default:
		return ctx.Err()
	}
}

// park gives the thread back until the task is ready. A task whose process has
// crashed ends here.
func (s *Sim) park(k *task) {
	s.sched.parked = append(s.sched.parked, k)
	s.sched.yield <- struct{}{}
	<-k.resume
	if !k.alive() {
		runtime.Goexit()
	}
}

// Within gives a context that ends in virtual time.
func (t tasks) Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	t.n.s.after(d, cancel)
	return ctx, cancel
}

// runTasks lets every task go on that can, until none can.
func (s *Sim) runTasks() {
	for again := true; again; {
		again = false
		for i, k := range s.sched.parked {
			if k.alive() && (k.n.paused || !k.ready()) {
				continue
			}
			s.sched.parked = append(s.sched.parked[:i:i], s.sched.parked[i+1:]...)
			s.sched.running = k
			k.resume <- struct{}{}
			<-s.sched.yield
			s.sched.running = nil
			if s.town != nil {
				s.town.stepped(k.n)
			}
			for _, n := range s.nodes {
				if n.up && !n.paused {
					n.work()
				}
			}
			again = true
			break
		}
	}
}

// endTasks ends what still waits at the end of a run.
func (s *Sim) endTasks() {
	for _, n := range s.nodes {
		n.up = false
	}
	for len(s.sched.parked) > 0 {
		k := s.sched.parked[0]
		s.sched.parked = s.sched.parked[1:]
		s.sched.running = k
		k.resume <- struct{}{}
		<-s.sched.yield
		s.sched.running = nil
	}
}
