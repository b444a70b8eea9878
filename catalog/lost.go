package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/copycat-replication/copycat/id"
)

// ErrHeld says that a structure is not given up, since a node has a replica of it.
var ErrHeld = errors.New("a node has a replica of the data structure")

// Holding is what one node says of its replica of a structure.
type Holding struct {
	Node id.Node
	Life id.Incarnation // of the replica that it uses, or that has stopped; zero: it has none
	Err  error          // it did not answer
}

// Holdings asks every node where the catalog or gossip places a structure whether
// it has a replica of it, all at once, and waits for their answers at most
// Config.CallTimeout. The record is as of now, by a commit; its zero: the structure
// was never born, and nobody was asked.
func (s *Service) Holdings(ctx context.Context, structure id.Structure) (Record, []Holding, error) {
	rec, err := s.Record(ctx, structure)
	if err != nil || rec.Incarnation.Birth == 0 {
		return rec, nil, err
	}
	nodes := rec.Nodes()
	for _, n := range s.cfg.Directory.Holders(structure) {
		if !slices.Contains(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	out := make([]Holding, len(nodes))
	ctx, cancel := s.tasks.Within(ctx, s.cfg.CallTimeout)
	defer cancel()
	var asked sync.WaitGroup
	for i, n := range nodes {
		asked.Go(func() {
			out[i].Node = n
			out[i].Life, out[i].Err = s.cfg.Engine.Keeps(ctx, n, structure)
		})
	}
	asked.Wait()
	return rec, out, nil
}

// GiveUpLost deletes a structure of which no replica is left, so that its ID is
// free again: DeleteStructure cannot, since nobody is left to commit the end. It
// is the decision of an operator, who knows that the nodes which do not answer are
// gone for good, and names the birth that was looked at. ErrHeld says that a node
// has a replica: what that holds can be rebuilt. A replica that turns up later is
// removed by its node, also if it leads by then. Doing it again changes nothing.
func (s *Service) GiveUpLost(ctx context.Context, structure id.Structure, birth uint64) error {
	rec, holdings, err := s.Holdings(ctx, structure)
	switch {
	case err != nil:
		return err
	case rec.Ends(birth):
		return nil
	case rec.Incarnation.Birth != birth:
		return fmt.Errorf("structure %s, born at %d: %w", structure, birth, ErrUnknown)
	}
	for _, h := range holdings {
		if h.Life.Birth == birth {
			return fmt.Errorf("structure %s: %w: node %s, of %s", structure, ErrHeld, h.Node, h.Life)
		}
	}
	s.log.Warn("giving up a structure, by an operator's order: no replica of it is left", "group", rec.Group().String())
	return s.Delete(ctx, structure, birth)
}
