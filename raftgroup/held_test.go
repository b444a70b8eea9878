package raftgroup_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// waitsOn is what a node says of its replica of a structure.
func waitsOn(n *rig.Node) string {
	for _, g := range n.Host.Groups() {
		return g.Waits
	}
	return "nothing is here"
}

// leaving has a node leave; whoever calls end has it stay after all, and gets the error.
func leaving(n *rig.Node) (left chan error, end func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	left = make(chan error, 1)
	n.SetLeaving(true)
	go func() { left <- n.Host.Vacate(ctx) }()
	return left, func() error {
		cancel()
		defer n.SetLeaving(false)
		return <-left
	}
}

// TestLeaveWithoutAMajority has a node leave whose group has lost its majority:
// its status, and the error of the leave, say that there is no leader, how many
// voters are seen, and which nodes are not. Nothing is said any more when they are back.
func TestLeaveWithoutAMajority(t *testing.T) {
	t.Parallel()
	for _, leads := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := rig.New(t, 3, 25)
			s := rig.Structure(9)
			c.StartAll()
			c.Born(s, 3, raftgroup.Options{})
			c.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(c, s); return ok })
			goes, _, _ := leadNode(c, s)
			at := slices.Index(c.Nodes, goes)
			if !leads {
				at = (at + 1) % 3
				goes = c.Nodes[at]
			}
			lost := []*rig.Node{c.Nodes[(at+1)%3], c.Nodes[(at+2)%3]}
			for _, n := range lost {
				n.Stop()
			}
			_, end := leaving(goes)
			says := func(text string) bool {
				return strings.Contains(text, "no leader: 1 of 3 voters") && strings.Contains(text, lost[0].ID.String()) && strings.Contains(text, lost[1].ID.String()) && !strings.Contains(text, goes.ID.String())
			}
			c.Wait(time.Minute, "why it is still here", func() bool { return says(waitsOn(goes)) })
			if err := end(); !says(err.Error()) {
				t.Errorf("the leave does not say why: %v", err)
			}
			if !says(waitsOn(goes)) {
				t.Errorf("not leaving any more: %q", waitsOn(goes))
			}
			lost[0].Start()
			c.Wait(time.Minute, "a leader again", func() bool { return !strings.Contains(waitsOn(goes), "no leader") })
			// Two of three, and the second does not hear the first.
			lost[1].Start()
			lost[0].Stop()
			c.Net.Cut(goes.ID, lost[1].ID)
			c.Net.Cut(lost[1].ID, goes.ID)
			_, end = leaving(goes)
			c.Wait(time.Minute, "a majority that does not elect", func() bool {
				text := waitsOn(goes)
				return strings.Contains(text, "no leader, although 2 of 3 voters are on nodes that are seen") && strings.Contains(text, lost[0].ID.String())
			})
			if err := end(); err == nil {
				t.Error("it has left")
			}
			c.StopAll()
		})
	}
}

// TestLeaveBehindACutLink has a node leave that does not reach its group's leader,
// which the others do: the replica there cannot learn that it was removed, and says so.
func TestLeaveBehindACutLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 26, 4, 3)
		leader, _, _ := leadNode(w.Cluster, w.s)
		goes := w.Nodes[(slices.Index(w.Nodes, leader)+1)%3]
		w.write(leader)
		left, _ := leaving(goes)
		w.Net.Cut(leader.ID, goes.ID)
		w.Net.Cut(goes.ID, leader.ID)
		w.Wait(2*time.Minute, "it says that it does not reach the leader", func() bool {
			text := waitsOn(goes)
			return strings.Contains(text, "no leader of its group answers this node") || strings.Contains(text, "no leader, although 3 of 3 voters are on nodes that are seen")
		})
		w.Net.Heal()
		w.Wait(2*time.Minute, "it has nothing left", func() bool { return !holds(goes, w.s) })
		if err := <-left; err != nil {
			t.Fatal(err)
		}
		w.verify()
	})
}

// TestLeaveSaysWhatIsBetween has the log of a node that leaves refuse to forget a
// replica, which is off the lists: what it waits for is in the error all the same.
func TestLeaveSaysWhatIsBetween(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := rig.New(t, 4, 27)
		disks := make(map[*rig.Node]*faultyLog)
		c.Tune = func(cfg *raftgroup.Config) {
			for _, n := range c.Nodes {
				if n.ID == cfg.Node {
					disks[n] = &faultyLog{Log: n.Log, refusal: func(u wal.Update) error {
						if u.Remove {
							return wal.ErrDiskFull
						}
						return nil
					}}
					cfg.Log = disks[n]
				}
			}
		}
		s := rig.Structure(9)
		c.StartAll()
		c.Born(s, 3, raftgroup.Options{})
		c.Wait(time.Minute, "a leader", func() bool { _, _, ok := leadNode(c, s); return ok })
		goes, _, _ := leadNode(c, s)
		err := vacate(t, goes, 2*time.Minute)
		var left *raftgroup.VacateError
		if !errors.As(err, &left) || len(left.Left) != 0 || !strings.Contains(err.Error(), "1 replica is still being removed from the disk") {
			t.Fatalf("vacated: %v", err)
		}
		if text := goes.Host.Unsettled(); !strings.Contains(text, "1 replica is still being removed") {
			t.Errorf("the host says %q", text)
		}
		disks[goes].mu.Lock()
		disks[goes].refusal = nil
		disks[goes].mu.Unlock()
		if err := vacate(t, goes, 2*time.Minute); err != nil {
			t.Fatal(err)
		}
		if text := goes.Host.Unsettled(); text != "" {
			t.Errorf("vacant, and the host says %q", text)
		}
		c.StopAll()
	})
}

// TestLeaveBesideACutLink has a node leave, with no other to take its place, while
// the link between the leader and another voter is cut, and all else sees that one:
// of five, the group goes on with the three that the leader hears; of three it
// waits, and says which link, and the leave ends when the link is back.
func TestLeaveBesideACutLink(t *testing.T) {
	t.Parallel()
	for _, voters := range []int{3, 5} {
		synctest.Test(t, func(t *testing.T) {
			w := newWard(t, 29, voters, voters)
			leader, _, _ := leadNode(w.Cluster, w.s)
			at := slices.Index(w.Nodes, leader)
			unheard, goes := w.Nodes[(at+1)%voters], w.Nodes[(at+2)%voters]
			w.write(leader)
			time.Sleep(2 * time.Second)
			w.Net.Cut(leader.ID, unheard.ID)
			w.Net.Cut(unheard.ID, leader.ID)
			began := time.Now()
			w.Wait(time.Minute, "the leader misses it", func() bool {
				_, ok := missing(w.Cluster, w.s, unheard)
				return ok
			})
			left, _ := leaving(goes)
			if voters == 3 {
				w.Wait(time.Minute, "which link is cut, said where the node leaves", func() bool {
					text := waitsOn(goes)
					return strings.Contains(text, "the leader does not hear of it, and its node "+unheard.ID.String()+" lives")
				})
				time.Sleep(4 * grace)
				if nodes, _ := voterNodes(w.Cluster, w.s); len(nodes) != 3 {
					t.Fatalf("%d voters: a copy that is whole has gone, and another one is not heard of", len(nodes))
				}
				w.Net.Heal()
			}
			if err := <-left; err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took < grace {
				t.Errorf("it left after %s: a link may be cut for a moment", took)
			}
			if nodes, _ := voterNodes(w.Cluster, w.s); voters == 5 && (len(nodes) != 3 || slices.Contains(nodes, unheard)) {
				t.Errorf("%d voters, the one that is not heard among them: %t", len(nodes), slices.Contains(nodes, unheard))
			}
			w.Net.Heal()
			goes.Stop()
			w.Wait(2*time.Minute, "all others have a replica, and an odd number votes", func() bool {
				nodes, learners := voterNodes(w.Cluster, w.s)
				return len(nodes) == voters-2 && learners == 1
			})
			w.verify()
		})
	}
}
