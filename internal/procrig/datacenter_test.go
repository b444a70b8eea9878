package procrig

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// TestDataCenterGoneAndBackEmpty kills both nodes of one of three data centers
// for good, under load: every structure goes on after an election and has three
// voters in the two others after the grace. Then both come back under the old
// addresses with empty directories, which makes them new nodes: every structure,
// and the catalog, spreads over all three again, and the old nodes are members
// of nothing. With -long: fifty structures, snapshots of a megabyte, and a grace
// of twenty seconds, for the figures.
func TestDataCenterGoneAndBackEmpty(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	grace := pick(3*time.Second, 20*time.Second)
	r := New(t, Options{
		DataCenters: []string{"dc1", "dc2", "dc3", "dc1", "dc2", "dc3"},
		Padding:     pick(0, 1<<20), SnapshotEntries: 200, ReplaceAfter: grace.String(), Seed: newSeed(),
	})
	r.StartAll()
	lost := []*Node{r.Nodes[2], r.Nodes[5]}
	var stay, gone []*Subscription
	for i := range pick(4, 50) {
		s := r.Structure()
		stay = append(stay, r.Others(lost...)[i%4].Subscribe(s))
		if i%2 == 0 {
			gone = append(gone, lost[i/2%2].Subscribe(s))
		}
	}
	for _, sub := range slices.Concat(stay, gone) {
		sub.Load(pick(4*pace, 20*pace))
	}
	r.Wait(4*time.Minute, "all are spread over three data centers", func() (bool, string) { return spread(r, 3) })
	r.More(pick(50, 200), stay...)
	loaded := time.Now()
	was := r.Net.Stats().Bytes
	r.More(pick(50, 200), stay...)
	kept := stored(t, r.Others(lost...))

	killed := time.Now()
	traffic := rate(r, was, loaded)
	was = r.Net.Stats().Bytes
	var old []string
	for _, n := range lost {
		old = append(old, n.ID)
		n.Kill()
	}
	r.More(20, stay...)
	r.Wait(10*time.Minute, "all are whole without the data center", func() (bool, string) { return whole(r, old...) })
	healed := time.Now()
	meanwhile := rate(r, was, killed)
	grown := stored(t, r.Others(lost...)) - kept
	r.More(20, stay...)

	back := time.Now()
	was = r.Net.Stats().Bytes
	for _, n := range lost {
		n.Wipe()
		n.Start()
	}
	for _, sub := range gone {
		again := sub.Node.Subscribe(sub.Of)
		again.Load(pick(4*pace, 20*pace))
	}
	r.Wait(10*time.Minute, "all are spread again, and the old nodes are members of nothing", func() (bool, string) { return spread(r, 3, old...) })
	spreaded := time.Now()
	again := rate(r, was, back)
	filled := stored(t, lost)
	r.More(20, stay...)
	if slices.Contains(old, lost[0].ID) || slices.Contains(old, lost[1].ID) {
		t.Errorf("the nodes with empty directories are %s and %s again", lost[0].ID, lost[1].ID)
	}
	t.Logf("%d structures are whole %s after the death of their data center, and spread again %s after it came back empty; of each, %s are the grace; the snapshots of those that stayed grew by %d KiB, and those that came back hold %d KiB",
		len(r.structures), healed.Sub(killed).Round(time.Millisecond), spreaded.Sub(back).Round(time.Millisecond), grace, grown>>10, filled>>10)
	t.Logf("traffic between the nodes: before %s; until all were whole %s; until all were spread again %s", traffic, meanwhile, again)
	finish(t, r)
	noLongPause(t, r, loaded, spreaded)
	h, err := r.history()
	if err != nil {
		t.Fatal(err)
	}
	others := r.Others(lost...)
	t.Logf("latency from a proposal to its own delivery, on the nodes that stayed: before %s; until all were whole %s; from the return until all were spread %s; on those that came back: %s",
		latencies(h, loaded, killed, others...), latencies(h, killed, healed, others...), latencies(h, back, spreaded, others...), latencies(h, back, spreaded, lost...))
}

// rate says what has gone through the proxies since.
func rate(r *Rig, was int64, since time.Time) string {
	bytes := r.Net.Stats().Bytes - was
	return fmt.Sprintf("%d KiB, %.0f KiB/s", bytes>>10, float64(bytes>>10)/time.Since(since).Seconds())
}

// spread reports whether each structure has three voters, and the catalog
// five, in so many data centers, and nothing on the nodes that are gone.
func spread(r *Rig, dataCenters int, gone ...string) (bool, string) {
	place := make(map[string]string)
	for _, n := range r.Nodes {
		place[n.ID] = n.DataCenter
	}
	shown, err := leaders(r)
	if err != nil {
		return false, err.Error()
	}
	want := map[string]int{"catalog": 5}
	for _, s := range r.structures {
		want[s.ID] = 3
	}
	for _, id := range slices.Sorted(maps.Keys(want)) {
		x := shown[id]
		if len(x) != 1 {
			return false, fmt.Sprintf("%s has %d leaders", id, len(x))
		}
		in := make(map[string]bool)
		for _, v := range x[0].Voters {
			in[place[v]] = true
		}
		if len(x[0].Voters) != want[id] || len(in) != dataCenters || in[""] || x[0].isOn(gone) {
			return false, fmt.Sprintf("%s: voters %v in %v, learners %v: %q", id, x[0].Voters, slices.Sorted(maps.Keys(in)), x[0].Learners, x[0].Waits)
		}
	}
	return true, ""
}
