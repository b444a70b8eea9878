package sim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

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

func (n *network) calm() {
	n.loss, n.double, n.slowest = 0, 0, 5*time.Millisecond
	clear(n.cut)
}

// endpoint is a node's view of the network.
type endpoint struct{ from *node }

func (e endpoint) Send(to id.Node, m raftgroup.Message) error {
	s := e.from.s
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
		s.after(s.between(100*time.Microsecond, s.net.slowest), func() {
			if s.net.cut[[2]int{from.number, target.number}] || !target.up || target.life != life {
				s.net.lost++
				return
			}
			s.net.delivered++
			target.when(func() {
				s.note(uint64(target.number), uint64(len(m.Payload)))
				target.host.HandleMessage(from.id, m)
				target.work()
			})
		})
	}
	return nil
}

// Call asks another node's host, on the thread of the caller's task.
// Flush has nothing to do: Send holds nothing back.
func (e endpoint) Flush() {}

func (e endpoint) Call(ctx context.Context, to id.Node, method uint16, request []byte) ([]byte, error) {
	s := e.from.s
	target := s.byID[to]
	if err := e.travel(ctx, e.from, target); err != nil {
		return nil, err
	}
	life := target.life
	answer, err := target.host.HandleCall(ctx, e.from.id, method, request)
	if err != nil {
		return nil, err
	}
	if target.life != life {
		return nil, errUnreachable
	}
	return answer, e.travel(ctx, target, e.from)
}

// travel takes the time of a message between two nodes, and fails like one.
func (e endpoint) travel(ctx context.Context, from, to *node) error {
	s := e.from.s
	arrived, cancel := tasks{e.from}.Within(context.Background(), s.between(100*time.Microsecond, s.net.slowest))
	defer cancel()
	if err := (tasks{e.from}).Await(ctx, arrived.Done()); err != nil {
		return err
	}
	if to == nil || !to.up || to.paused || s.net.cut[[2]int{from.number, to.number}] || s.chance(s.net.loss) {
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

// directory is gossip that knows at once who is up.
type directory struct{ s *Sim }

func (d directory) Nodes() []raftgroup.Node {
	var out []raftgroup.Node
	for _, n := range d.s.nodes {
		if n.up {
			out = append(out, raftgroup.Node{ID: n.id, Incarnation: n.life, DataCenter: n.dc, Capacity: 1})
		}
	}
	return out
}

func (d directory) Holders(id.Structure) []id.Node {
	var out []id.Node
	for _, n := range d.s.nodes {
		if n.up {
			out = append(out, n.id)
		}
	}
	return out
}

func (directory) Publish([]raftgroup.Hosted) {}
