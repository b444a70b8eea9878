package raftgroup

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Tasks runs what waits beside the steps: joins, calls, transfers. The default
// is goroutines and the runtime's timers; a simulation has one thread, and
// decides who goes on.
type Tasks interface {
	// Go runs f beside the caller.
	Go(f func())
	// Await waits until done is closed (nil: never), or the context ends: then
	// it returns its error. Only tasks, and what they call, may wait.
	Await(ctx context.Context, done <-chan struct{}) error
	// Within gives a context that ends after d, or with its parent.
	Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)
}

// GoTasks is Tasks with goroutines and the runtime's timers; running counts
// what was started, for whoever has to wait for it.
func GoTasks(running *sync.WaitGroup) Tasks { return goTasks{running} }

type goTasks struct{ running *sync.WaitGroup }

func (t goTasks) Go(f func()) { t.running.Go(f) }

func (goTasks) Await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	default: // what has happened counts before the context does
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (goTasks) Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}

// sleep waits; false: the host closes.
func (h *Host) sleep(d time.Duration) bool {
	ctx, cancel := h.tasks.Within(h.ctx, d)
	defer cancel()
	_ = h.tasks.Await(ctx, nil) // ends with the time, or with the host
	return h.ctx.Err() == nil
}

// promise is a result that somebody waits for.
type promise[T any] struct {
	once sync.Once
	done chan struct{}
	v    T
	err  error
}

func newPromise[T any]() *promise[T] { return &promise[T]{done: make(chan struct{})} }

// keep gives the result; only the first one counts.
func (p *promise[T]) keep(v T, err error) {
	p.once.Do(func() {
		p.v, p.err = v, err
		close(p.done)
	})
}

// await waits for the result.
func (p *promise[T]) await(ctx context.Context, t Tasks) (T, error) {
	if err := t.Await(ctx, p.done); err != nil {
		var zero T
		return zero, fmt.Errorf("no answer: %w", err)
	}
	return p.v, p.err
}
