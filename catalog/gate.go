package catalog

import (
	"context"
	"slices"
	"sync"

	"github.com/copycat-replication/copycat/raftgroup"
)

// gate lets a bounded number in at the same time. The others wait, each in the
// caller's own task, and are let in in the order in which they came. Its
// waiting goes through Tasks, which a channel of that many places could not.
type gate struct {
	mu    sync.Mutex
	free  int             // places; set before use
	queue []chan struct{} // closed when its owner has got a place
}

// enter waits for a place. After nil the caller owes a leave; after an error,
// that of ctx, it does not.
func (g *gate) enter(ctx context.Context, t raftgroup.Tasks) error {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	g.queue = append(g.queue, turn)
	g.mu.Unlock()
	err := t.Await(ctx, turn)
	if err == nil {
		return nil
	}
	g.mu.Lock()
	at := slices.Index(g.queue, turn)
	if at >= 0 {
		g.queue = slices.Delete(g.queue, at, at+1)
	}
	g.mu.Unlock()
	if at < 0 {
		g.leave() // its turn came as it gave up
	}
	return err
}

// leave gives a place to who has waited longest.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 0 {
		g.free++
		return
	}
	close(g.queue[0])
	g.queue = slices.Delete(g.queue, 0, 1)
}
