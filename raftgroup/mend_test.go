package raftgroup_test

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// rottenLog is a log some of whose entries cannot be read.
type rottenLog struct {
	raftgroup.LogStore
	from, to *atomic.Uint64 // the rotten ones, both inclusive
	hits     *atomic.Int64
}

func (l rottenLog) Entries(group, lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	if at := max(lo, l.from.Load()); at < hi && at <= l.to.Load() {
		l.hits.Add(1)
		return nil, &wal.DamageError{Group: group, Index: at, File: "cold", Offset: -1, Reason: "rotten"}
	}
	return l.LogStore.Entries(group, lo, hi, maxBytes)
}

// rotten is a cluster of three with a structure; the log of its last node can rot.
type rotten struct {
	*rig.Cluster
	first *journal
	victim,
	leader *rig.Node
	from, to atomic.Uint64
	hits     atomic.Int64
}

func newRotten(t *testing.T, opt raftgroup.Options) *rotten {
	t.Helper()
	r := &rotten{Cluster: rig.New(t, 3, 1)}
	r.leader, r.victim = r.Nodes[0], r.Nodes[2]
	r.from.Store(math.MaxUint64)
	r.Tune = func(cfg *raftgroup.Config) {
		cfg.CompactionTail = 1
		if cfg.Node == r.victim.ID {
			cfg.Log = rottenLog{cfg.Log, &r.from, &r.to, &r.hits}
		}
	}
	r.StartAll()
	r.Born(rig.Structure(9), 3, opt)
	r.first = newJournal(t)
	r.first.subscribe(r.leader, raftgroup.SubscriptionConfig{Structure: rig.Structure(9)})
	return r
}

func (r *rotten) propose(n int) {
	r.T.Helper()
	want := r.first.count() + n
	r.first.propose("a", n)
	r.Wait(2*time.Minute, "all are delivered", func() bool { return r.first.count() >= want })
	r.Wait(2*time.Minute, "the others have applied them", func() bool {
		var applied []uint64
		for _, n := range r.Nodes {
			if g, here := n.Host.Group(rig.Structure(9)); n.Up() && here {
				applied = append(applied, g.Status().Applied)
			}
		}
		for _, a := range applied {
			if a != applied[0] {
				return false
			}
		}
		return true
	})
}

// rot makes all entries rot that the victim has now.
func (r *rotten) rot() {
	g, _ := r.victim.Host.Group(rig.Structure(9))
	r.to.Store(g.Status().Applied)
	r.from.Store(1)
}

// loseSnapshots takes away the snapshot files of the victim.
func (r *rotten) loseSnapshots() {
	r.T.Helper()
	groups, err := r.victim.FS.List("snapshots")
	if err != nil {
		r.T.Fatal(err)
	}
	lost := 0
	for _, g := range groups {
		dir := path.Join("snapshots", g)
		names, err := r.victim.FS.List(dir)
		for _, n := range names {
			if strings.HasSuffix(n, ".snap") {
				lost++
				err = errors.Join(err, r.victim.FS.Remove(path.Join(dir, n)))
			}
		}
		if err = errors.Join(err, r.victim.FS.SyncDir(dir)); err != nil {
			r.T.Fatal(err)
		}
	}
	if lost == 0 {
		r.T.Fatal("there was no snapshot to lose")
	}
}

func (r *rotten) whole(j *journal) {
	r.T.Helper()
	r.Wait(2*time.Minute, "a subscriber on the node whose log is rotten has all", func() bool { return j.count() == r.first.count() })
	same(r.T, r.first, j)
	if r.hits.Load() == 0 {
		r.T.Error("nothing rotten was read")
	}
	st := r.victim.Host.Groups()
	if len(st) != 1 || st[0].Failed || !st[0].Voter || st[0].Replica != 3 {
		r.T.Errorf("the replica is %+v", st)
	}
}

// TestRottenEntriesAreFetchedAgain: a subscription that has to read what cannot
// be read on its node gets it all the same: others have it.
func TestRottenEntriesAreFetchedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRotten(t, raftgroup.Options{})
		defer func() { r.StopAll(); <-r.first.done }()
		r.propose(50)
		r.rot()
		late := newJournal(t)
		late.subscribe(r.victim, raftgroup.SubscriptionConfig{Structure: rig.Structure(9)})
		defer func() { <-late.done }()
		r.whole(late)
		r.StopAll()
	})
}

// TestReplicaStartsOverRottenEntries: a replica that cannot apply its log after
// a restart stops, is given what it lacks, and goes on: as the voter that it was.
func TestReplicaStartsOverRottenEntries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRotten(t, raftgroup.Options{})
		r.propose(50)
		r.rot()
		r.victim.Stop()
		r.victim.Start()
		again := newJournal(t)
		again.subscribe(r.victim, raftgroup.SubscriptionConfig{Structure: rig.Structure(9)})
		r.propose(10)
		r.whole(again)
		r.StopAll()
		<-r.first.done
		<-again.done
	})
}

// TestReplicaGoesOnWhenItsDiskDoes: a replica that stops because its disk does not
// give an entry goes on when it does, though no other one can be asked.
func TestReplicaGoesOnWhenItsDiskDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRotten(t, raftgroup.Options{})
		r.propose(50)
		r.rot()
		r.victim.Stop()
		for _, n := range r.Nodes[:2] {
			r.Net.Cut(n.ID, r.victim.ID)
			r.Net.Cut(r.victim.ID, n.ID)
		}
		r.victim.Start()
		status := func() raftgroup.GroupStatus {
			for _, st := range r.victim.Host.Groups() {
				return st
			}
			return raftgroup.GroupStatus{Failed: true} // between the one that stopped and the one that goes on
		}
		late := newJournal(t)
		late.subscribe(r.victim, raftgroup.SubscriptionConfig{Structure: rig.Structure(9)})
		r.Wait(time.Minute, "a rotten entry to be read", func() bool { return r.hits.Load() > 0 })
		time.Sleep(time.Minute)
		r.from.Store(math.MaxUint64)
		r.Wait(2*time.Minute, "the replica to go on", func() bool { return !status().Failed && status().Applied > 0 })
		r.Net.Heal()
		r.whole(late)
		r.StopAll()
		<-r.first.done
		<-late.done
	})
}

// TestReplicaStartsBehindNewerSnapshot: the others have compacted what the
// replica cannot read, and have done with the snapshot that it held: it starts
// behind a newer one. Once because of its log, once because its file is gone.
func TestReplicaStartsBehindNewerSnapshot(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(*rotten){
		"rotten log": func(r *rotten) { r.rot() },
		"lost file":  func(r *rotten) { r.hits.Add(1); r.loseSnapshots() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRotten(t, raftgroup.Options{SnapshotEntries: 20})
				for range 40 {
					r.propose(1)
				}
				held := func(n *rig.Node) uint64 {
					g, here := n.Host.Group(rig.Structure(9))
					if !here {
						return 0
					}
					return g.Status().Snapshot.Index
				}
				r.Wait(time.Minute, "a snapshot", func() bool { return held(r.victim) > 0 })
				old := held(r.victim)
				r.propose(5)
				damage(r)
				r.victim.Stop()
				for range 100 {
					r.propose(1)
				}
				r.Wait(time.Minute, "newer snapshots", func() bool { return held(r.leader) > old+40 && held(r.Nodes[1]) > old+40 })
				r.victim.Start()
				again := newJournal(t)
				again.subscribe(r.victim, raftgroup.SubscriptionConfig{Structure: rig.Structure(9)})
				r.propose(10)
				r.whole(again)
				r.StopAll()
				<-r.first.done
				<-again.done
			})
		})
	}
}

// TestSessionThatASnapshotHasOpened: the entry that opens a subscription's
// session does not reach its node, since a snapshot takes that node past it:
// offered to its replica, or as the seed of another one in its place.
func TestSessionThatASnapshotHasOpened(t *testing.T) {
	t.Parallel()
	for _, seeded := range []bool{false, true} {
		t.Run(fmt.Sprintf("seeded %v", seeded), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { sessionThatASnapshotHasOpened(t, seeded) })
		})
	}
}

func sessionThatASnapshotHasOpened(t *testing.T, seeded bool) {
	r := newRotten(t, raftgroup.Options{SnapshotEntries: 20})
	s := rig.Structure(9)
	for range 30 {
		r.propose(1)
	}
	g, _ := r.leader.Host.Group(s)
	for _, n := range r.Nodes[:2] { // what the node says is heard; it hears nothing
		r.Net.Cut(n.ID, r.victim.ID)
	}
	sessions := g.Status().Sessions
	late := newJournal(t)
	late.subscribe(r.victim, raftgroup.SubscriptionConfig{Structure: s})
	r.Wait(time.Minute, "a session", func() bool { return g.Status().Sessions > sessions })
	opened := g.Status().Applied
	for range 60 {
		r.first.propose("b", 1)
		time.Sleep(100 * time.Millisecond)
	}
	r.Wait(time.Minute, "a log that begins behind it, on both", func() bool {
		for _, n := range r.Nodes[:2] {
			first, err := n.Log.FirstIndex(n.Log.Groups()[0].Group)
			if err != nil || first <= opened+10 {
				return false
			}
		}
		return true
	})
	if seeded {
		if err := r.victim.Host.RemoveReplica(s); err != nil {
			t.Fatal(err)
		}
	}
	r.Net.Heal()
	if seeded {
		if err := r.victim.Host.Join(s, r.leader.ID); err != nil {
			t.Fatal(err)
		}
	}
	want := r.first.count() + 1
	late.propose("c", 1)
	r.Wait(2*time.Minute, "its proposal", func() bool { return r.first.count() == want && late.count() == want })
	same(t, r.first, late)
	if got := g.Status().Sessions; got != sessions+1 {
		t.Errorf("%d sessions are open, of %d subscriptions", got, sessions+1)
	}
	r.StopAll()
	<-r.first.done
	<-late.done
}

// TestProposalsAfterAReplicaWasMended: while a replica stands over damage, what
// its subscriptions propose is reported as given up. When it goes on, they do too:
// the numbers of what was given up must not be waited for.
func TestProposalsAfterAReplicaWasMended(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRotten(t, raftgroup.Options{})
		r.propose(10)
		j := newJournal(t)
		j.subscribe(r.victim, raftgroup.SubscriptionConfig{Structure: rig.Structure(9)})
		sent := 0
		propose := func() {
			j.sub.Propose() <- fmt.Appendf(nil, "v-%d", sent)
			sent++
			time.Sleep(time.Millisecond)
		}
		for range 50 {
			propose()
		}
		r.Wait(time.Minute, "its first changes", func() bool { return j.count() == 60 })
		g, _ := r.victim.Host.Group(rig.Structure(9))
		r.to.Store(math.MaxUint64)
		r.from.Store(g.Status().Applied + 1)
		failed := func() bool {
			g, here := r.victim.Host.Group(rig.Structure(9))
			return here && g.Status().Failed
		}
		for !failed() {
			propose()
		}
		for range 20 {
			propose()
		}
		r.Wait(time.Minute, "them to be given up", func() bool { return len(j.errors()) >= 20 })
		r.from.Store(math.MaxUint64)
		r.Wait(time.Minute, "the replica to go on", func() bool { return !failed() })
		for range 10 {
			propose()
		}
		last := fmt.Sprintf("v-%d", sent-1)
		r.Wait(time.Minute, "its last changes", func() bool {
			return slices.Contains(r.first.all(), last) && slices.Contains(j.all(), last)
		})
		same(t, r.first, j)
		reported, delivered := make(map[string]bool), make(map[string]int)
		for _, err := range j.errors() {
			var p *raftgroup.ProposalError
			if errors.As(err, &p) {
				reported[string(p.Proposal)] = errors.Is(err, raftgroup.ErrNeverCommitted)
			}
		}
		next := 0
		for _, line := range j.all() {
			var n int
			if _, err := fmt.Sscanf(line, "v-%d", &n); err != nil {
				continue
			}
			if delivered[line]++; delivered[line] > 1 || n < next || reported[line] {
				t.Errorf("%s is delivered, %d times, after v-%d; reported as never committed: %v", line, delivered[line], next-1, reported[line])
			}
			next = n + 1
		}
		for i := range sent {
			line := fmt.Sprintf("v-%d", i)
			if _, told := reported[line]; !told && delivered[line] == 0 {
				t.Errorf("%s is neither delivered nor reported", line)
			}
		}
		lead, _ := r.leader.Host.Group(rig.Structure(9))
		r.Wait(time.Minute, "the session that is of no use any more to be closed", func() bool { return lead.Status().Sessions == 2 })
		r.StopAll()
		<-r.first.done
		<-j.done
	})
}

// TestSessionOnAReplicaThatWaitsForItsSnapshot: a replica stops over damage under
// a subscription that has a session, and when it is to go on, its snapshot file is
// gone too: it has no state until that has been fetched. Then the subscription goes
// on: with its session, or with another one if what it proposed meanwhile was
// given up.
func TestSessionOnAReplicaThatWaitsForItsSnapshot(t *testing.T) {
	t.Parallel()
	for name, givenUp := range map[string]bool{"the same session": false, "another session": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { sessionOnAReplicaThatWaits(t, givenUp) })
		})
	}
}

func sessionOnAReplicaThatWaits(t *testing.T, givenUp bool) {
	r := newRotten(t, raftgroup.Options{SnapshotEntries: 20})
	for range 40 {
		r.propose(1)
	}
	j := newJournal(t)
	j.subscribe(r.victim, raftgroup.SubscriptionConfig{Structure: rig.Structure(9)})
	j.propose("v", 1)
	r.Wait(time.Minute, "its first change", func() bool { return j.count() == 41 })
	g, _ := r.victim.Host.Group(rig.Structure(9))
	r.Wait(time.Minute, "a snapshot", func() bool { return g.Status().Snapshot.Index > 0 })
	r.loseSnapshots()

	r.Net.SetLatency(5 * time.Millisecond) // it is mended, and there is time to end the rot
	r.to.Store(math.MaxUint64)
	r.from.Store(g.Status().Applied + 1)
	for i := 0; !g.Status().Failed; i++ {
		r.first.sub.Propose() <- fmt.Appendf(nil, "b-%d", i)
		if givenUp {
			j.sub.Propose() <- fmt.Appendf(nil, "u-%d", i)
		}
		time.Sleep(time.Millisecond)
	}
	r.from.Store(math.MaxUint64)
	r.Wait(time.Minute, "the replica to go on", func() bool {
		again, here := r.victim.Host.Group(rig.Structure(9))
		return here && again != g && again.Status().Role == "follower"
	})

	j.propose("w", 10)
	r.Wait(time.Minute, "its changes", func() bool { return slices.Contains(j.all(), "w-9") })
	close(j.sub.Propose())
	ends(r.Cluster, j)
	same(t, r.first, j)
	told := 0
	for _, err := range j.errors() {
		if p := (*raftgroup.ProposalError)(nil); errors.As(err, &p) {
			told++
		}
	}
	if (told > 0) != givenUp {
		t.Errorf("%d proposals were given up: %v", told, j.errors())
	}
	lead, _ := r.leader.Host.Group(rig.Structure(9))
	r.Wait(time.Minute, "its sessions to be closed", func() bool { return lead.Status().Sessions == 1 })
	r.StopAll()
	<-r.first.done
}
