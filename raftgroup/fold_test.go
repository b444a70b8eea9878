package raftgroup

import (
	"fmt"

	"github.com/copycat-replication/copycat/id"
)

// Fold is what the newest snapshot of a replica says of its place, and what
// the log says of the same place.
type Fold struct {
	Index        uint64
	Held, Folded []byte // applied states, encoded
	Voters       int    // as of the snapshot
}

// FoldOf takes the log from its beginning to the place of the snapshot that a
// node holds: it must not be compacted, and the replica one of the first.
func (h *Host) FoldOf(structure id.Structure) (Fold, error) {
	g, ok := h.Group(structure)
	if !ok {
		return Fold{}, ErrUnknownGroup
	}
	at, err := h.loadPoint(g)
	if err != nil {
		return Fold{}, err
	}
	if at.reader == nil {
		return Fold{}, fmt.Errorf("group %s: no snapshot", g.key)
	}
	if err := at.reader.Close(); err != nil {
		return Fold{}, err
	}
	f := Fold{Index: at.ref.Index, Voters: len(at.state.conf.GetVoters())}
	c := &cursor{state: newState(g.key, g.genesis.Members, g.genesis.Options)}
	for ok := true; ok; {
		if _, ok, err = c.next(g.store, at.ref.Index); err != nil {
			return Fold{}, err
		}
	}
	if f.Held, err = at.state.encode(); err != nil {
		return Fold{}, err
	}
	f.Folded, err = c.state.encode()
	return f, err
}
