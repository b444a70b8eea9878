package sim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

var errUnreachable = errors.New("unreachable")

// network decides about each message by itself: lost, doubled, and how late.
type network struct {
	s         *Sim
	loss      float64
	double    float64
	slowest   time.Duration
	cut       map[[2]int]bool // one way
	delivered uint64
	lost      uint64
}

// late draws how long a message takes.
func (n *network) late(from, to *node) time.Duration {
	if n.s.town != nil {
		return n.s.town.distance(from, to) + n.s.between(0, n.slowest)
	}
	return n.s.between(100*time.Microsecond, n.slowest)
}

func (n *network) calm() {
	n.loss, n.double, n.slowest = 0, 0, 5*time.Millisecond
	clear(n.cut)
}

// endpoint is a node's view of the network.
type endpoint struct{ from *node }

func (e endpoint) Send(to id.Node, m raftgroup.Message) error {
	s := e.from.s
	s.watch.message(e.from, m)
	target := s.byID[to]
	if target == nil || target == e.from {
		return errUnreachable
	}
	copies := 1
	if s.chance(s.net.double) {
		copies = 2
	}
	for range copies {
		if s.chance(s.net.loss) {
			s.net.lost++
			continue
		}
		from, life := e.from, target.life
		s.after(s.net.late(e.from, target), func() {
			if s.net.cut[[2]int{from.number, target.number}] || !target.up || target.life != life {
				s.net.lost++
				return
			}
			s.net.delivered++
			target.when(func() {
				s.note(uint64(target.number), uint64(len(m.Bytes())))
				target.host.HandleMessage(from.id, m)
				target.work()
			})
		})
	}
	return nil
}

// Flush has nothing to do: Send holds nothing back.
func (e endpoint) Flush() {}

// Call asks another node. What it does there is that node's own task: it goes
// on when the caller is gone, waits while the node is paused, and its answer
// may be lost.
func (e endpoint) Call(ctx context.Context, to id.Node, method uint16, request []byte) ([]byte, error) {
	s := e.from.s
	target := s.byID[to]
	if err := e.travel(ctx, e.from, target); err != nil {
		return nil, err
	}
	var answer []byte
	var err error
	answered := make(chan struct{})
	target.calls = append(slices.DeleteFunc(target.calls, func(c served) bool { return closed(c.answered) }), served{answered, &err})
	tasks{target}.Go(func() {
		// The handler bounds itself; that its caller has given up, it hears
		// late or never.
		a, aerr := target.handle(context.Background(), e.from.id, method, request)
		if !closed(answered) {
			answer, err = a, aerr
			close(answered)
		}
	})
	if err := (tasks{e.from}).Await(ctx, answered); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	return answer, e.travel(ctx, target, e.from)
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// served is a call that a process has not answered yet.
type served struct {
	answered chan struct{}
	err      *error
}

// hangUp ends the calls that the process has not answered.
func (n *node) hangUp() {
	for _, c := range n.calls {
		if !closed(c.answered) {
			*c.err = errUnreachable
			close(c.answered)
		}
	}
	n.calls = nil
}

// handle gives the catalog its calls, and the host its own.
func (n *node) handle(ctx context.Context, from id.Node, method uint16, request []byte) ([]byte, error) {
	if method >= catalog.MinMethod && method <= catalog.MaxMethod {
		return n.svc.HandleCall(ctx, from, method, request)
	}
	return n.host.HandleCall(ctx, from, method, request)
}

// travel takes the time of a message between two nodes, and fails like one.
func (e endpoint) travel(ctx context.Context, from, to *node) error {
	s := e.from.s
	arrived, cancel := tasks{e.from}.Within(context.Background(), s.net.late(from, to))
	defer cancel()
	if err := (tasks{e.from}).Await(ctx, arrived.Done()); err != nil {
		return err
	}
	if to == nil || !to.up || s.net.cut[[2]int{from.number, to.number}] || s.chance(s.net.loss) {
		return errUnreachable
	}
	return nil
}

// Fetch hands over a file at once, or a part of it.
func (e endpoint) Fetch(ctx context.Context, to id.Node, request []byte) (io.ReadCloser, error) {
	s := e.from.s
	target := s.byID[to]
	if target == nil || !target.up || target.paused || s.net.cut[[2]int{e.from.number, target.number}] || s.net.cut[[2]int{target.number, e.from.number}] {
		return nil, errUnreachable
	}
	var b bytes.Buffer
	if err := target.host.HandleStream(ctx, e.from.id, request, &b); err != nil {
		return nil, err
	}
	if s.chance(s.net.loss) {
		cut := s.rng.IntN(b.Len() + 1)
		return io.NopCloser(io.MultiReader(bytes.NewReader(b.Bytes()[:cut]), failing{})), nil
	}
	return io.NopCloser(&b), nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errUnreachable }

// directory is gossip that knows at once who is up, and a little late who
// holds what.
type directory struct{ n *node }

func (d directory) Nodes() []raftgroup.Node {
	var out []raftgroup.Node
	for _, n := range d.n.s.nodes {
		if n.up {
			out = append(out, raftgroup.Node{ID: n.id, Incarnation: n.life, DataCenter: n.dc, Capacity: 1})
		}
	}
	return out
}

func (d directory) Holders(st id.Structure) []id.Node {
	var out []id.Node
	for _, n := range d.n.s.nodes {
		if !n.up {
			continue
		}
		for _, h := range n.published {
			if h.Group.Structure == st {
				out = append(out, n.id)
				break
			}
		}
	}
	return out
}

func (d directory) Publish(hosted []raftgroup.Hosted) {
	n, life := d.n, d.n.life
	n.lists++
	list := n.lists
	n.s.after(n.s.between(0, time.Second), func() {
		if n.life == life && list > n.listed { // a newer list may have overtaken it
			n.published, n.listed = hosted, list
		}
	})
}
