package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/copycat-replication/copycat"
)

// What may go on beside the structures that are measured.
const (
	besideStuck     = "stuck"
	besideSnapshots = "snapshots"
)

const (
	neighbourStructure = 99_999_999
	// stuckEvery is the pause between two proposals to a structure whose
	// consumer is stuck: 1,000 a second, which lag behind without end.
	stuckEvery   = time.Millisecond
	stuckPayload = 128
	// A snapshot is due after 64 MiB of proposals (the default), or after the
	// number of commits that the flag says.
	bulkPayload = 256 << 10
	bulkEvery   = 5 * time.Millisecond
)

// errBeside says that the flag's word is not known.
var errBeside = errors.New("beside: need stuck or snapshots")

// neighbour is one more structure, whose troubles the others must not feel.
type neighbour struct {
	working sync.WaitGroup
	size    int64
	commits atomic.Uint64
}

// startNeighbour subscribes all nodes to it, and has the first one propose.
func (s *settings) startNeighbour(c *cluster) (*neighbour, error) {
	n := &neighbour{}
	pause, payload := stuckEvery, stuckPayload
	switch s.beside {
	case besideStuck:
	case besideSnapshots:
		pause, payload, n.size = bulkEvery, bulkPayload, s.besideBytes
	default:
		return nil, fmt.Errorf("%w, not %q", errBeside, s.beside)
	}
	id, err := structureID(neighbourStructure)
	if err != nil {
		return nil, err
	}
	for i, node := range c.nodes {
		propose, commits, errs, consume, err := node.SubscribeToDataStructure(id, n.provide)
		if err != nil {
			return n, fmt.Errorf("neighbour: node %d: %w", i, err)
		}
		stuck := s.beside == besideStuck && i == len(c.nodes)-1
		n.working.Go(func() { n.apply(c, commits, consume, stuck) })
		n.working.Go(func() { n.listen(c, errs, stuck) })
		if i == 0 {
			n.working.Go(func() { n.propose(c, propose, make([]byte, payload), pause) })
		}
	}
	return n, nil
}

// provide is the structure's state. Before its first commit there is none: a
// base is bounded, and goes through the log.
func (n *neighbour) provide() ([]byte, error) {
	if n.commits.Load() == 0 {
		return nil, nil
	}
	return make([]byte, n.size), nil
}

func (n *neighbour) apply(c *cluster, commits <-chan []byte, consume copycat.SnapshotConsumer, stuck bool) {
	if stuck {
		<-c.done
	}
	for payload := range commits {
		if payload != nil {
			n.commits.Add(1)
			continue
		}
		if _, err := consume(); err != nil {
			c.warn(fmt.Errorf("neighbour: load a snapshot: %w", err))
		}
	}
}

func (n *neighbour) listen(c *cluster, errs <-chan error, stuck bool) {
	for err := range errs {
		if !stuck || !errors.Is(err, copycat.ErrSlowConsumer) {
			c.warn(fmt.Errorf("neighbour: %w", err))
		}
	}
}

func (n *neighbour) propose(c *cluster, to chan<- []byte, payload []byte, pause time.Duration) {
	t := time.NewTicker(pause)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-c.done:
			return
		}
		select {
		case to <- append([]byte(nil), payload...):
		case <-c.done:
			return
		}
	}
}
