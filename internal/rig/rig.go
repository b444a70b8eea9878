// Package rig runs several hosts in one process for tests: the production
// host, log store and snapshot store, on an in-memory network, directory and
// file system. Inside a testing/synctest bubble their time is virtual.
package rig

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/snapshot"
	"github.com/copycat-replication/copycat/wal"
)

// Cluster is a set of nodes.
type Cluster struct {
	T     testing.TB
	Seed  uint64
	Net   *Network
	Nodes []*Node
	// Tune changes the host's configuration before a node starts.
	Tune func(*raftgroup.Config)
	// Wrap puts something in front of a host on the network, such as the catalog.
	Wrap func(*Node) Handler

	mu      sync.Mutex
	hosted  map[id.Node][]raftgroup.Hosted
	live    map[id.Node]*Node
	leaving map[id.Node]bool
	side    map[id.Node]int // of a partition
}

// Node is one node: its disk survives Stop, Crash and Start.
type Node struct {
	Cluster     *Cluster
	ID          id.Node
	DataCenter  string
	Incarnation uint64
	FS          *vfs.Mem
	Cold        *wal.MemCold
	Log         *wal.Log
	Snapshots   *snapshot.Store
	Host        *raftgroup.Host
	Endpoint    raftgroup.Network
	up          bool
}

// New makes n nodes, in as many data centers, and starts none.
func New(t testing.TB, n int, seed uint64) *Cluster {
	c := &Cluster{T: t, Seed: seed, Net: newNetwork(seed), hosted: make(map[id.Node][]raftgroup.Hosted), live: make(map[id.Node]*Node), leaving: make(map[id.Node]bool)}
	for i := range n {
		c.Add(fmt.Sprintf("dc%d", i+1))
	}
	return c
}

// Add makes another node.
func (c *Cluster) Add(dataCenter string) *Node {
	n := &Node{Cluster: c, DataCenter: dataCenter, FS: vfs.NewMem(), Cold: wal.NewMemCold()}
	c.mu.Lock() // the directories of nodes that run read it; only the test's goroutine changes it
	defer c.mu.Unlock()
	binary.BigEndian.PutUint64(n.ID[8:], uint64(len(c.Nodes)+1))
	c.Nodes = append(c.Nodes, n)
	return n
}

// Logger writes to the test's log.
func (c *Cluster) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{c.T}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(p[:len(p)-1]))
	return len(p), nil
}

type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

// Start starts a node on its disk.
func (n *Node) Start() {
	c := n.Cluster
	c.T.Helper()
	n.Incarnation++
	logger := c.Logger().With("node", n.DataCenter)
	var err error
	n.Log, err = wal.Open(wal.Options{FS: n.FS, Dir: "wal", SegmentSize: 4 << 20, Cold: n.Cold, Entropy: entropy(c.Seed, n.ID), Logger: logger})
	if err != nil {
		c.T.Fatalf("seed %d: open log: %v", c.Seed, err)
	}
	n.Log.Start()
	n.Snapshots, err = snapshot.OpenStore(snapshot.Options{FS: n.FS, Dir: "snapshots", Logger: logger})
	if err != nil {
		c.T.Fatalf("seed %d: open snapshots: %v", c.Seed, err)
	}
	n.Endpoint = endpoint{c.Net, n.ID}
	cfg := raftgroup.Config{
		Node: n.ID, Incarnation: n.Incarnation, Log: n.Log, Snapshots: n.Snapshots,
		Network: n.Endpoint, Directory: directory{c, n}, Clock: wallClock{}, Random: entropy(c.Seed+n.Incarnation, n.ID), Logger: logger,
	}
	if c.Tune != nil {
		c.Tune(&cfg)
	}
	if n.Host, err = raftgroup.NewHost(cfg); err != nil {
		c.T.Fatalf("seed %d: new host: %v", c.Seed, err)
	}
	var h Handler = n.Host
	if c.Wrap != nil {
		h = c.Wrap(n)
	}
	c.Net.join(n.ID, h)
	c.mu.Lock()
	c.live[n.ID] = n
	c.mu.Unlock()
	n.up = true
	n.Host.Start()
	for _, o := range c.Nodes {
		if o != n && o.up {
			o.Host.PeerUp(n.ID, n.Incarnation)
		}
	}
}

// Stop ends a node in order. Its disk stays.
func (n *Node) Stop() {
	if !n.up {
		return
	}
	n.leave()
	n.close()
}

// Crash ends a node as a power failure does: what was not synced is lost, or
// not, as the seed has it.
func (n *Node) Crash(seed uint64) {
	if !n.up {
		return
	}
	n.leave()
	after := n.FS.Crash(seed)
	n.close()
	n.FS = after
}

func (n *Node) leave() {
	c := n.Cluster
	n.up = false
	c.Net.leave(n.ID)
	c.mu.Lock()
	delete(c.live, n.ID)
	c.mu.Unlock()
}

func (n *Node) close() {
	t := n.Cluster.T
	if err := n.Host.Close(); err != nil {
		t.Errorf("close host: %v", err)
	}
	if err := n.Log.Close(); err != nil {
		t.Logf("close log: %v", err)
	}
	if err := n.Snapshots.Close(); err != nil {
		t.Errorf("close snapshots: %v", err)
	}
}

// Up reports whether the node runs.
func (n *Node) Up() bool { return n.up }

// StartAll starts all nodes.
func (c *Cluster) StartAll() {
	for _, n := range c.Nodes {
		n.Start()
	}
}

// StopAll stops all nodes.
func (c *Cluster) StopAll() {
	for _, n := range c.Nodes {
		n.Stop()
	}
}

// Wait waits, in virtual time, until cond holds; it fails the test if that
// takes longer than limit.
func (c *Cluster) Wait(limit time.Duration, what string, cond func() bool) {
	c.T.Helper()
	deadline := time.Now().Add(limit)
	for !cond() {
		if time.Now().After(deadline) {
			for _, n := range c.Nodes {
				if n.up {
					for _, g := range n.Host.Groups() {
						c.T.Logf("node %s: %+v", n.DataCenter, g)
					}
				}
			}
			c.T.Fatalf("seed %d: not within %s: %s", c.Seed, limit, what)
		}
		time.Sleep(10 * time.Millisecond) // virtual time: lets the bubble run on
	}
}

// Genesis gives a new group the first n nodes as voters.
func (c *Cluster) Genesis(s id.Structure, n int, opt raftgroup.Options) raftgroup.Genesis {
	g := raftgroup.Genesis{Group: id.Group{Structure: s}, Members: make(map[id.Replica]id.Node), Options: opt}
	for i := range n {
		g.Members[id.Replica(i+1)] = c.Nodes[i].ID
	}
	copy(g.Token[:], s[:])
	return g
}

// Born makes a group on the first n nodes, without a catalog.
func (c *Cluster) Born(s id.Structure, n int, opt raftgroup.Options) {
	c.T.Helper()
	g := c.Genesis(s, n, opt)
	for i := range n {
		if err := c.Nodes[i].Host.Prepare(context.Background(), g); err != nil {
			c.T.Fatal(err)
		}
	}
	for i := range n {
		if err := c.Nodes[i].Host.StartPrepared(context.Background(), g.Token, id.Incarnation{Birth: 2}); err != nil {
			c.T.Fatal(err)
		}
	}
}

// Structure makes an ID out of a number.
func Structure(n uint64) (s id.Structure) {
	binary.BigEndian.PutUint64(s[8:], n)
	return s
}

func entropy(seed uint64, node id.Node) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	copy(key[8:], node[:])
	return rand.NewChaCha8(key)
}

// directory is the gossip of a rig: instant, and always right about who is up
// and on this side of a partition.
type directory struct {
	c *Cluster
	n *Node
}

func (d directory) Nodes() []raftgroup.Node {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	var out []raftgroup.Node
	for _, n := range d.c.Nodes {
		if d.c.live[n.ID] == n && d.c.side[n.ID] == d.c.side[d.n.ID] {
			out = append(out, raftgroup.Node{ID: n.ID, Incarnation: n.Incarnation, DataCenter: n.DataCenter, Capacity: 1, Leaving: d.c.leaving[n.ID]})
		}
	}
	return out
}

func (d directory) Holders(s id.Structure) []id.Node {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	var out []id.Node
	for _, n := range d.c.Nodes {
		if d.c.live[n.ID] == n && d.c.side[n.ID] == d.c.side[d.n.ID] && slices.ContainsFunc(d.c.hosted[n.ID], func(h raftgroup.Hosted) bool { return h.Group.Structure == s }) {
			out = append(out, n.ID)
		}
	}
	return out
}

// Incarnations says which life of a structure each holder has.
func (d directory) Incarnations(s id.Structure) map[id.Node]id.Incarnation {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	out := make(map[id.Node]id.Incarnation)
	for _, n := range d.c.Nodes {
		for _, h := range d.c.hosted[n.ID] {
			if d.c.live[n.ID] == n && h.Group.Structure == s && out[n.ID].Less(h.Group.Incarnation) {
				out[n.ID] = h.Group.Incarnation
			}
		}
	}
	return out
}

// Rebuilt lists the structures of which a holder has a rebuilt life.
func (d directory) Rebuilt() (out []id.Structure) {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	for _, n := range d.c.Nodes {
		for _, h := range d.c.hosted[n.ID] {
			if d.c.live[n.ID] == n && h.Group.Incarnation.Recovery > 0 {
				out = append(out, h.Group.Structure)
			}
		}
	}
	return out
}

func (d directory) Publish(replicas []raftgroup.Hosted) {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	d.c.hosted[d.n.ID] = replicas
}
