package catalog

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/catalogpb"
)

// Snapshot returns the state as bytes: the same for the same state. The
// machine before its first command has none.
func (m *Machine) Snapshot() ([]byte, error) {
	if m.index == 0 {
		return []byte{}, nil
	}
	st := catalogpb.State{
		Index: m.index, Horizon: m.horizon,
		Records:   make([]*catalogpb.Record, 0, len(m.records)),
		Abandoned: make([]*catalogpb.Abandoned, 0, len(m.order)),
	}
	structures := slices.SortedFunc(maps.Keys(m.records), func(a, b id.Structure) int { return bytes.Compare(a[:], b[:]) })
	for _, s := range structures {
		st.Records = append(st.Records, m.records[s].encode())
	}
	for _, a := range m.order {
		st.Abandoned = append(st.Abandoned, &catalogpb.Abandoned{Token: a.token[:], Index: a.index})
	}
	return marshal(snapshotMagic, snapshotVersion, &st)
}

// Restore replaces the state by that of a snapshot. After an error the machine
// is as it was; ErrNewerFormat if a newer version made the snapshot.
func (m *Machine) Restore(data []byte) error {
	next := NewMachine()
	next.bound = m.bound
	if len(data) == 0 {
		*m = *next
		return nil
	}
	var st catalogpb.State
	if err := unmarshal(snapshotMagic, snapshotVersion, data, &st); err != nil {
		return fmt.Errorf("catalog snapshot: %w", err)
	}
	next.index, next.horizon = st.Index, st.Horizon
	for _, r := range st.Records {
		rec, err := decodeRecord(r)
		if err != nil {
			return fmt.Errorf("catalog snapshot: %w", err)
		}
		if rec.Incarnation.Birth == 0 || rec.Incarnation.Birth > st.Index || rec.Deleted > st.Index {
			return fmt.Errorf("catalog snapshot of index %d: %w: structure %s born at %d", st.Index, ErrInvalid, rec.Structure, rec.Incarnation.Birth)
		}
		rec.Members, rec.Hint = next.members.Share(rec.Members), next.members.Share(rec.Hint)
		next.records[rec.Structure] = rec
	}
	for _, a := range st.Abandoned {
		t, err := decodeToken(a.Token)
		if err != nil {
			return fmt.Errorf("catalog snapshot: %w", err)
		}
		next.abandoned[t] = struct{}{}
		next.order = append(next.order, abandonment{token: t, index: a.Index})
	}
	*m = *next
	return nil
}
