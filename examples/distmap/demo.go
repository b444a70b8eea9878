package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/copycat-replication/copycat"
)

const (
	demoPuts      = 100 // through each node, each time
	demoSnapshots = 150 // commits between snapshots: few, so that there are some to see
)

// demo is three nodes in one process: in earnest they would be three machines.
type demo struct {
	out   io.Writer
	log   *slog.Logger
	dir   string
	nodes []*demoNode
	want  map[string]string // what was acknowledged
}

type demoNode struct {
	name   string
	config *copycat.Config
	cc     copycat.CopyCat // nil while stopped
	m      *Map
}

// runDemo shows in a few seconds what CopyCat does.
func runDemo(ctx context.Context, out io.Writer, log *slog.Logger) (err error) {
	dir, err := os.MkdirTemp("", "distmap-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := &demo{out: out, log: log, dir: dir, want: make(map[string]string)}
	defer d.stopAll()
	began := time.Now()
	for _, step := range []func(context.Context) error{
		d.startNodes, d.subscribe, d.putThroughEach, d.snapshot, d.loseLeader, d.bringBack,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.say("\nDone in %s: %d changes, one history, three equal maps.", time.Since(began).Round(100*time.Millisecond), len(d.want))
	return nil
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, format+"\n", args...)
}

func (d *demo) startNodes(ctx context.Context) error {
	d.say("Three nodes in three data centers, all in this process:")
	for _, where := range []struct{ name, dc string }{{"a", "berlin"}, {"b", "paris"}, {"c", "lisbon"}} {
		c := copycat.DefaultConfig()
		c.CopyCatPort, c.GossipPort = 0, 0 // free ones
		c.CopyCatDataDir = filepath.Join(d.dir, where.name)
		c.DataCenter = where.dc
		c.Profile = copycat.Local // short time-outs: it is one machine
		c.SnapshotEntries = demoSnapshots
		c.Logger = d.log.With("name", where.name)
		told := "no peers, so it starts a cluster"
		if len(d.nodes) > 0 {
			c.PeersToContact = []string{d.nodes[0].cc.Status().GossipAddress}
			told = "peer " + c.PeersToContact[0] + ", so it joins"
		}
		n := &demoNode{name: where.name, config: c}
		if err := n.start(); err != nil {
			return err
		}
		d.nodes = append(d.nodes, n)
		s := n.cc.Status()
		d.say("  copycat.NewCopyCat   %s in %s: %s; node %s", n.name, where.dc, told, short(s.NodeID))
	}
	err := d.until(ctx, "all three know each other", func() bool {
		for _, n := range d.nodes {
			alive := 0
			for _, seen := range n.cc.Status().Nodes {
				if seen.Alive {
					alive++
				}
			}
			if alive != len(d.nodes) {
				return false
			}
		}
		return true
	})
	d.say("  cc.Status            every node sees three alive nodes, told by gossip")
	return err
}

// start starts the node, or starts it again from its directory.
func (n *demoNode) start() error {
	cc, err := copycat.NewCopyCat(n.config)
	if err != nil {
		return fmt.Errorf("node %s: NewCopyCat: %w", n.name, err)
	}
	n.cc = cc
	return nil
}

// stop leaves the map and ends the node.
func (n *demoNode) stop(log *slog.Logger) error {
	var err error
	if n.m != nil {
		err = closeMap(n.m, log)
	}
	if n.cc != nil {
		n.cc.Shutdown()
	}
	n.m, n.cc = nil, nil
	return err
}

// subscribe has all three nodes subscribe at the same moment: nobody creates
// the map first, and still there is one.
func (d *demo) subscribe(ctx context.Context) error {
	d.say("\nAll three subscribe to %s at the same moment; nobody has created it:", mapID)
	gate := make(chan struct{})
	failed := make([]error, len(d.nodes))
	var all sync.WaitGroup
	for i, n := range d.nodes {
		all.Go(func() {
			<-gate
			n.m, failed[i] = Subscribe(n.cc, mapID, n.config.Logger)
		})
	}
	close(gate)
	all.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	d.say("  cc.SubscribeToDataStructureWithStringID   returned to each: a propose, a commit and an error channel")
	err := d.until(ctx, "the map has three voters and a leader", func() bool {
		for _, n := range d.nodes {
			s, ok := n.structure()
			if !ok || len(s.Voters) != len(d.nodes) || s.Leader == "" {
				return false
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	s, _ := d.nodes[0].structure()
	d.say("  cc.Status            one raft group of three voters; node %s leads it", d.nameOf(s.Leader))
	return nil
}

func (d *demo) putThroughEach(ctx context.Context) error {
	d.say("\nEach node puts %d keys; whatever node takes a change, all get it in the same order:", demoPuts)
	if err := d.putThrough(ctx, "first", d.nodes); err != nil {
		return err
	}
	d.say("  proposeCh <- change  %d times; each came back on the commit channel, and only then its put returned", len(d.want))
	return d.compare(ctx)
}

// putThrough puts keys through some nodes, all at the same time.
func (d *demo) putThrough(ctx context.Context, round string, nodes []*demoNode) error {
	failed := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			for k := range demoPuts {
				key := fmt.Sprintf("%s/%s/%03d", round, n.name, k)
				if err := n.m.Put(ctx, key, "put by "+n.name); err != nil {
					failed[i] = fmt.Errorf("put %s through node %s: %w", key, n.name, err)
					return
				}
			}
		})
	}
	all.Wait()
	for _, n := range nodes {
		for k := range demoPuts {
			d.want[fmt.Sprintf("%s/%s/%03d", round, n.name, k)] = "put by " + n.name
		}
	}
	return errors.Join(failed...)
}

// compare waits until every running node's copy is the map that was put.
func (d *demo) compare(ctx context.Context) error {
	for _, n := range d.nodes {
		if n.m == nil {
			continue
		}
		if err := n.m.WaitFor(ctx, func(have map[string]string) bool { return maps.Equal(have, d.want) }); err != nil {
			have, _ := n.m.All()
			return fmt.Errorf("node %s has %d keys, not the %d that were put: %w", n.name, len(have), len(d.want), err)
		}
		d.say("  copy on %s            %d keys, as put", n.name, len(d.want))
	}
	return nil
}

// snapshot waits until one was made, which is due by now, and is on all nodes: one
// that comes back then shows what it does with it.
func (d *demo) snapshot(ctx context.Context) error {
	d.say("\nAfter %d changes a snapshot is due. One map is asked to make it, by a nil on its commit channel:", demoSnapshots)
	var maker string
	err := d.until(ctx, "a snapshot is on all nodes", func() bool {
		maker = ""
		for _, n := range d.nodes {
			if s, ok := n.structure(); !ok || s.Snapshot == 0 {
				return false
			}
			if snapshots, _ := n.m.Received(); snapshots > 0 {
				maker = n.name
			}
		}
		return maker != ""
	})
	if err != nil {
		return err
	}
	s, _ := d.nodes[0].structure()
	d.say("  SnapshotConsumer     %s made the snapshot of %d changes: CopyCat called its SnapshotProvider in that very call", maker, s.Snapshot)
	d.say("  cc.Status            the other two nodes have fetched it, and all may cut their logs")
	return nil
}

// loseLeader stops the node that leads the map's group, and goes on.
func (d *demo) loseLeader(ctx context.Context) error {
	s, _ := d.nodes[0].structure()
	n := d.nodes[0]
	for _, candidate := range d.nodes {
		if candidate.cc.Status().NodeID == s.Leader {
			n = candidate
		}
	}
	d.say("\nNode %s leads. It stops:", n.name)
	if err := n.stop(d.log); err != nil {
		return fmt.Errorf("stop node %s: %w", n.name, err)
	}
	d.say("  close(proposeCh)     %s unsubscribes: the commit channel is closed after its last commit, then the error channel", n.name)
	d.say("  cc.Shutdown          goroutines, ports and files of %s are gone", n.name)
	var rest []*demoNode
	for _, other := range d.nodes {
		if other.cc != nil {
			rest = append(rest, other)
		}
	}
	began := time.Now()
	if err := d.putThrough(ctx, "second", rest); err != nil {
		return err
	}
	s, _ = rest[0].structure()
	d.say("  proposeCh <- change  %d more through the other two: they elected node %s, in %s all were committed",
		len(rest)*demoPuts, d.nameOf(s.Leader), time.Since(began).Round(10*time.Millisecond))
	return d.compare(ctx)
}

// bringBack starts the stopped node from its directory.
func (d *demo) bringBack(ctx context.Context) error {
	for _, n := range d.nodes {
		if n.cc != nil {
			continue
		}
		d.say("\nNode %s starts again, from its directory alone:", n.name)
		n.config.PeersToContact = nil // the directory knows them
		if err := n.start(); err != nil {
			return err
		}
		s := n.cc.Status()
		d.say("  copycat.NewCopyCat   the same node %s, its %s start", short(s.NodeID), ordinal(s.Incarnation))
		var err error
		if n.m, err = Subscribe(n.cc, mapID, n.config.Logger); err != nil {
			return err
		}
		err = n.m.WaitFor(ctx, func(have map[string]string) bool { return len(have) == len(d.want) })
		if err != nil {
			return fmt.Errorf("node %s does not catch up: %w", n.name, err)
		}
		snapshots, changes := n.m.Received()
		d.say("  cc.Subscribe…        its map started empty; the commit channel brought %s (nil) and %d changes", plural(snapshots, "snapshot"), changes)
	}
	if err := d.compare(ctx); err != nil {
		return err
	}
	d.say("Each node puts %d more:", demoPuts)
	if err := d.putThrough(ctx, "third", d.nodes); err != nil {
		return err
	}
	return d.compare(ctx)
}

func (d *demo) stopAll() {
	for _, n := range d.nodes {
		if err := n.stop(d.log); err != nil {
			d.log.Warn("node not stopped in order", "node", n.name, "error", err)
		}
	}
}

// until waits for what only Status can tell.
func (d *demo) until(ctx context.Context, what string, ok func() bool) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for !ok() {
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		}
	}
	return nil
}

// structure returns this node's replica of the map.
func (n *demoNode) structure() (copycat.StructureStatus, bool) {
	for _, s := range n.cc.Status().Structures {
		if s.ID.String() == mapID {
			return s, true
		}
	}
	return copycat.StructureStatus{}, false
}

func (d *demo) nameOf(nodeID string) string {
	for _, n := range d.nodes {
		if n.cc != nil && n.cc.Status().NodeID == nodeID {
			return n.name
		}
	}
	return short(nodeID)
}

// short is the random part of an ID: enough to tell nodes apart.
func short(nodeID string) string {
	return "…" + nodeID[max(0, len(nodeID)-6):]
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func ordinal(n uint64) string {
	switch n {
	case 1:
		return "first"
	case 2:
		return "second"
	}
	return fmt.Sprintf("%d.", n)
}
