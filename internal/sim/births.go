package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
)

// joinTimeout is how long a program waits for a birth before it is told that
// the catalog is not there; it then asks again.
const joinTimeout = 10 * time.Second

// structure is one data structure of a run.
type structure struct {
	id    id.Structure
	born  bool          // by the catalog, when somebody asks for it
	since time.Duration // from when on that is

	stage  stage
	last   error // of the last try to delete it, or to create it anew
	silent int   // while above zero, hardly anybody proposes

	citizen // of a town
}

// follower follows the catalog's log for a node's service.
type follower struct {
	n    *node
	life uint64
	log  *catalog.Manual
	sub  *raftgroup.Manual
	due  bool   // a nil came, and its consume has not succeeded
	next []byte // a command that the window had no room for
}

func (n *node) startCatalog() error {
	var m *catalog.Manual
	var err error
	cfg := catalog.Config{
		Node: n.id, Engine: catalog.ForHost(n.host), Network: endpoint{n}, Directory: n.directory(), Clock: n, Tasks: tasks{n},
		Random: n.s.random(n, 3), Logger: n.logger(),
		// Shorter than most faults last, so that births are given up and swept.
		CallTimeout: time.Second, Patience: 3 * time.Second,
	}
	if n.s.town != nil {
		cfg.CallTimeout, cfg.Patience = 0, 0 // the defaults
	}
	n.svc, m, err = catalog.NewManually(cfg)
	if err != nil {
		return err
	}
	f := &follower{n: n, life: n.life, log: m}
	if f.sub, err = n.host.SubscribeManually(m.Subscription()); err != nil {
		return err
	}
	if n.s.town != nil {
		n.catalog = f // it looks when something has happened
		return nil
	}
	f.lookLater()
	return nil
}

func (f *follower) lookLater() {
	s := f.n.s
	s.after(s.between(0, 20*time.Millisecond), func() {
		if !f.n.up || f.n.life != f.life {
			return
		}
		if !f.n.paused {
			s.must(f.look())
			f.n.work()
		}
		f.lookLater()
	})
}

// look takes what was committed, and proposes what is to be.
func (f *follower) look() error {
	for {
		if f.due {
			data, err := f.sub.Consume()
			if err != nil {
				break
			}
			f.due = false
			if err := f.log.Load(data); err != nil {
				return err
			}
		}
		p, ok, ended := f.sub.Poll()
		if ended || !ok {
			break
		}
		if p == nil {
			f.due = true
			continue
		}
		result, err := f.log.Commit(p)
		if err != nil {
			return err
		}
		f.n.s.watch.decided(f.n, result)
	}
	for {
		err, ok := f.sub.NextError()
		if !ok {
			break
		}
		f.log.Error(err)
	}
	for {
		if f.next == nil {
			f.next = f.log.Next()
		}
		if f.next == nil || f.sub.Offer(f.next) != nil {
			return nil
		}
		f.next = nil
	}
}

// foundCatalog founds the cluster's catalog on its first node.
func (s *Sim) foundCatalog() error {
	n := s.nodes[0]
	return s.wait(n, "the catalog was not founded", func() error { return n.svc.FoundCatalog(context.Background()) })
}

// wait runs a task while nothing else happens.
func (s *Sim) wait(n *node, or string, f func() error) error {
	var err error
	done := false
	tasks{n}.Go(func() {
		err = f()
		done = true
	})
	for limit := s.now.Add(time.Minute); !done && s.now.Before(limit); {
		s.runTasks()
		s.runUntil(s.now.Add(time.Millisecond), nil)
	}
	if !done {
		return fmt.Errorf("node %d: %s", n.number, or)
	}
	return err
}

// barrier has some nodes ask for a structure that nobody knows, all at once.
func (s *Sim) barrier(i int) {
	some := false
	for _, n := range s.nodes {
		if n.up && !n.paused && s.chance(0.7) {
			some = true
			n.ask(i)
		}
	}
	if !some {
		return // populate comes along
	}
	s.barriers++
}

// ask gets the node a replica, as a program's subscribing does: of holders, if
// gossip knows any, or of the catalog. The program subscribes once that is
// under way.
func (n *node) ask(i int) {
	st := &n.s.structures[i]
	if n.asking[i] || n.s.now.Sub(n.s.begin) < st.since {
		return
	}
	n.asking[i] = true
	life := n.life
	tasks{n}.Go(func() {
		err := n.obtain(st)
		if n.life != life {
			return
		}
		n.asking[i] = false
		switch {
		case err == nil:
			n.s.must(n.subscribe(i))
		case passing(err):
			n.s.refused++
		default:
			n.s.must(err)
		}
	})
}

// obtain is what the root package does when a program subscribes.
func (n *node) obtain(st *structure) error {
	if _, here := n.host.Group(st.id); here {
		return nil
	}
	if holders := n.directory().Holders(st.id); len(holders) > 0 || !st.born {
		var hint id.Node
		if len(holders) > 0 {
			hint = holders[0]
		}
		return n.host.Join(st.id, hint)
	}
	ctx, cancel := tasks{n}.Within(context.Background(), joinTimeout)
	defer cancel()
	options, pick := n.birthOf(st)
	record, err := n.svc.Birth(ctx, st.id, options, pick)
	if err != nil {
		return err
	}
	if _, here := n.host.Group(st.id); here {
		return nil
	}
	var hint id.Node
	if nodes := record.Nodes(); len(nodes) > 0 {
		hint = nodes[0]
	}
	return n.host.Join(st.id, hint)
}

// birthOf says how a structure is to be born.
func (n *node) birthOf(st *structure) (raftgroup.Options, func() []id.Node) {
	if n.s.town != nil {
		return st.options, func() []id.Node { return n.s.town.place(n, st) }
	}
	return raftgroup.Options{Voters: 3, SnapshotEntries: n.s.snapshotEntries()}, n.pick
}

// pick is a placement on which no two nodes agree.
func (n *node) pick() []id.Node {
	var out []id.Node
	for _, i := range n.s.rng.Perm(len(n.s.nodes)) {
		if o := n.s.nodes[i]; o.up {
			out = append(out, o.id)
		}
	}
	return out
}
