package procrig

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/internal/history"
)

// TestNodeGoneForGood kills a node for good, under load on several structures:
// each has three voters again, on nodes that run, and the figures say what that
// took. With -long: six nodes in three data centers, fifty structures, snapshots
// of a megabyte.
func TestNodeGoneForGood(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	grace := pick(3*time.Second, 20*time.Second)
	r := New(t, Options{
		DataCenters: pick([]string{"dc1", "dc2", "dc3", "dc3"}, []string{"dc1", "dc2", "dc3", "dc1", "dc2", "dc3"}),
		Padding:     pick(0, 1<<20), SnapshotEntries: 200, ReplaceAfter: grace.String(), Seed: newSeed(),
	})
	r.StartAll()
	var subs []*Subscription
	for i := range pick(4, 50) {
		s := r.Structure()
		sub := r.Nodes[i%2].Subscribe(s) // nodes that stay
		sub.Load(pick(4*pace, 20*pace))
		subs = append(subs, sub)
	}
	r.Wait(4*time.Minute, "three voters of each", func() (bool, string) { return whole(r) })
	r.More(pick(50, 200), subs...)
	victim := r.Nodes[2]
	st, err := victim.Status()
	if err != nil {
		t.Fatal(err)
	}
	held := len(st.Structures)
	before := stored(t, r.Others(victim))
	killed := time.Now()
	victim.Kill()
	r.Wait(10*time.Minute, "all whole without it", func() (bool, string) { return whole(r, st.NodeID) })
	healed := time.Now()
	moved := stored(t, r.Others(victim)) - before
	r.More(20, subs...)
	t.Logf("%d replicas were on the node; all structures are whole %s after its death, of which %s are the grace; snapshots on the others grew by %d KiB",
		held, healed.Sub(killed).Round(time.Millisecond), grace, moved>>10)
	finish(t, r)
	h, err := r.history()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("latency from a proposal to its own delivery: before %s; from the death until all were whole %s",
		latencies(h, time.Time{}, killed), latencies(h, killed, healed))
}

// whole reports whether each structure of the rig has one leader, as whose
// members it has three voters and nothing on the nodes that are gone.
func whole(r *Rig, gone ...string) (bool, string) {
	done := 0
	shown, err := leaders(r)
	if err != nil {
		return false, err.Error()
	}
	for _, s := range r.structures {
		if x := shown[s.ID]; len(x) == 1 && len(x[0].Voters) == 3 && !x[0].isOn(gone) {
			done++
		}
	}
	return done == len(r.structures), fmt.Sprintf("%d of %d structures are whole", done, len(r.structures))
}

// leaders are the replicas that lead, by the ID of what they lead; the
// catalog's is "catalog".
func leaders(r *Rig) (map[string][]StructureState, error) {
	out := make(map[string][]StructureState)
	for _, n := range r.running() {
		st, err := n.Status()
		if err != nil {
			return nil, err
		}
		for _, x := range st.Structures {
			if x.Catalog {
				x.ID = "catalog"
			}
			if x.Role == "leader" {
				out[x.ID] = append(out[x.ID], x)
			}
		}
	}
	return out, nil
}

// isOn reports whether one of the nodes has a replica of the group.
func (x *StructureState) isOn(nodes []string) bool {
	return slices.ContainsFunc(nodes, func(id string) bool { return slices.Contains(x.Voters, id) || slices.Contains(x.Learners, id) })
}

// stored adds up the snapshot files of some nodes.
func stored(t *testing.T, nodes []*Node) (bytes int64) {
	t.Helper()
	for _, n := range nodes {
		err := filepath.WalkDir(filepath.Join(n.Dir, "snapshots"), func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil //nolint:nilerr // a file that is removed meanwhile counts as none
			}
			if info, err := d.Info(); err == nil {
				bytes += info.Size()
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	return bytes
}

// latencies says how long proposals took that were sent between two moments:
// by anybody, or by some nodes.
func latencies(h *history.History, from, to time.Time, nodes ...*Node) string {
	var all []time.Duration
	for _, l := range h.Logs {
		if len(nodes) > 0 && !slices.ContainsFunc(nodes, func(n *Node) bool { return n.Number == l.Sub.Node }) {
			continue
		}
		sent := make(map[history.ID]int64)
		for _, e := range l.Events {
			switch e.Kind {
			case history.KindProposed:
				sent[e.ID] = e.At
			case history.KindDelivered:
				at, own := sent[e.ID]
				delete(sent, e.ID) // after a load it may come again
				if when := time.Unix(0, at); own && when.After(from) && when.Before(to) {
					all = append(all, time.Duration(e.At-at))
				}
			}
		}
	}
	if len(all) == 0 {
		return "nothing was proposed"
	}
	slices.Sort(all)
	at := func(share float64) time.Duration {
		return all[int(share*float64(len(all)-1))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %s, p99 %s, worst %s of %d", at(0.5), at(0.99), at(1), len(all))
}
