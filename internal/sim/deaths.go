package sim

import (
	"context"
	"errors"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// A structure that is born may also be deleted, while its programs write, and
// be created anew: under the same ID, with nothing of what was before. In the
// history each life is a structure of its own.

// stage is how far a structure's deletion and new creation have come.
type stage uint8

const (
	lasting  stage = iota // not to be deleted
	doomed                // to be deleted
	deleting              // somebody has begun
	deleted               // done; to be created anew
	anew                  // created anew
	extinct               // deleted, and not to be created anew: in towns
)

// deleteLater has a structure deleted by some node, whatever comes in between,
// and created anew by some node after that.
func (s *Sim) deleteLater(st *structure, in time.Duration) {
	s.after(in, func() {
		if st.stage == anew || st.stage == doomed && s.quiet {
			if st.stage == doomed {
				st.stage = lasting // it has not begun before the calm
			}
			return
		}
		n := s.nodes[s.rng.IntN(len(s.nodes))]
		if n.up && !n.paused && (st.stage != doomed || s.watch.lives(st.id) != 0) {
			if st.stage == doomed {
				st.stage = deleting
			}
			tasks{n}.Go(func() { n.s.must(n.endAndBegin(st)) })
		}
		s.deleteLater(st, s.between(joinTimeout/2, joinTimeout))
	})
}

// endAndBegin tries the next step once.
func (n *node) endAndBegin(st *structure) error {
	ctx, cancel := tasks{n}.Within(context.Background(), joinTimeout/2)
	defer cancel()
	was := st.stage
	switch was {
	case deleting:
		err := n.svc.DeleteStructure(ctx, st.id)
		st.last = err
		switch {
		case err == nil && st.stage == deleting:
			st.stage = deleted
			return n.endAndBegin(st)
		case err != nil && ctx.Err() == nil && !errors.Is(err, catalog.ErrCatalogUnavailable) && !errors.Is(err, raftgroup.ErrClosed):
			return err
		}
	case deleted:
		options, pick := n.birthOf(st)
		_, err := n.svc.Create(ctx, st.id, options, pick)
		st.last = err
		// That it exists may be an old answer, of the life before.
		if err == nil || errors.Is(err, catalog.ErrExists) && n.s.watch.lives(st.id) != 0 {
			st.stage = anew
			return nil
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, catalog.ErrCatalogUnavailable) && !errors.Is(err, catalog.ErrNoNodes) && !errors.Is(err, catalog.ErrExists) {
			return err
		}
	}
	return nil
}

// numberOf is a life's number in the history; 0: it has none. Structures that
// are there from the start have the first numbers.
func (s *Sim) numberOf(g id.Group) uint16 {
	if n, known := s.numbered[g]; known {
		return n
	}
	for i := range s.structures {
		if st := &s.structures[i]; st.id == g.Structure {
			n := uint16(i + 1)
			if st.born {
				s.bornYet++
				n = 100 + s.bornYet
			}
			s.numbered[g] = n
			return n
		}
	}
	return 0
}

// settled reports whether no structure is between two lives.
func (s *Sim) settled() bool {
	for i := range s.structures {
		if st := &s.structures[i]; st.stage == deleting || st.stage == deleted {
			return false
		}
	}
	return true
}
