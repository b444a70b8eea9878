package raftgroup

import (
	"context"
	"slices"
	"time"
)

// What waits on a stage: goroutines of which one runs at a time, and only while
// the stage stands still.

func (n *stageNode) Go(f func()) {
	k := &stageTask{n: n, life: n.life, turn: make(chan struct{}), ready: func() bool { return true }}
	go func() {
		<-k.turn
		if k.alive() {
			f()
		}
		n.s.back <- struct{}{}
	}()
	n.s.tasks = append(n.s.tasks, k)
}

func (k *stageTask) alive() bool { return k.n.up && k.n.life == k.life && !k.n.s.over }

func (n *stageNode) Await(ctx context.Context, done <-chan struct{}) error {
	s := n.s
	k := s.onTurn
	over := func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}
	k.ready = func() bool { return over() || ctx.Err() != nil }
	for !k.ready() && k.alive() {
		s.tasks = append(s.tasks, k)
		s.back <- struct{}{}
		<-k.turn
	}
	switch {
	case over():
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return errOffStage // its process is gone
}

func (n *stageNode) Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	n.s.timers = append(n.s.timers, stageTimer{at: n.s.now.Add(d), fire: cancel})
	return ctx, cancel
}

// runTasks gives each task that can go on its turn.
func (s *stage) runTasks() (moved bool) {
	for i := 0; i < len(s.tasks); {
		if k := s.tasks[i]; k.alive() && !k.ready() {
			i++
			continue
		}
		s.turnOf(i)
		moved, i = true, 0
	}
	return moved
}

func (s *stage) turnOf(i int) {
	k := s.tasks[i]
	s.tasks = slices.Delete(s.tasks, i, i+1)
	s.onTurn = k
	k.turn <- struct{}{}
	<-s.back
	s.onTurn = nil
}
