package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"

	"github.com/copycat-replication/copycat/bench/internal/load"
	"github.com/copycat-replication/copycat/bench/internal/ports"
)

const (
	startTimeout = 5 * time.Minute
	look         = 20 * time.Millisecond
	// starting bounds how many structures are started at the same time.
	starting    = 32
	connections = 3 // that the transport keeps to a node: the library's example
	rpcTimeout  = 10 * time.Second
	snapshots   = 2 // kept
	refused     = time.Millisecond
)

// cluster is a raft instance for each structure and node. What has an entry
// for each pair has it at structure*nodes + node.
type cluster struct {
	load      *load.Load
	nodes     int
	members   []*member
	receivers []*receiver // by node: take what others forward
	done      chan struct{}
}

// member is one node's instance of one structure.
type member struct {
	raft      *raft.Raft
	log       *wal.WAL
	meta      *metadb.BoltMetaDB // of the log, which does not close it
	transport *raft.NetworkTransport
	consumer  *load.Consumer

	futures  chan proposed // both made by the one lane that proposes here
	forward  *forwarder
	settling sync.WaitGroup

	ending sync.Once
	err    error
}

type proposed struct {
	future  raft.ApplyFuture
	payload []byte
}

func (s *settings) open(ctx context.Context, dir string, l *load.Load) (_ load.System, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p := l.Plan()
	c := &cluster{load: l, nodes: p.Nodes, members: make([]*member, p.Structures*p.Nodes), done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	addresses, err := ports.Keep(dir, p.Structures*p.Nodes)
	if err != nil {
		return nil, err
	}
	for n := range p.Nodes {
		r, err := newReceiver(c, n)
		if err != nil {
			return nil, err
		}
		c.receivers = append(c.receivers, r)
	}
	l.NodesReady()
	var starts sync.WaitGroup
	errs := make([]error, p.Structures)
	room := make(chan struct{}, starting)
	for st := range p.Structures {
		room <- struct{}{}
		starts.Go(func() {
			defer func() { <-room }()
			errs[st] = s.startStructure(ctx, c, dir, st, addresses[st*p.Nodes:][:p.Nodes])
		})
	}
	starts.Wait()
	return c, errors.Join(errs...)
}

// startStructure starts a structure's instances, and waits until all know the leader.
func (s *settings) startStructure(ctx context.Context, c *cluster, dir string, structure int, addresses []string) error {
	var servers raft.Configuration
	for n, a := range addresses {
		servers.Servers = append(servers.Servers, raft.Server{ID: raft.ServerID(strconv.Itoa(n)), Address: raft.ServerAddress(a)})
	}
	for n := range addresses {
		m, err := s.startMember(filepath.Join(dir, fmt.Sprintf("node%d", n), strconv.Itoa(structure)), n, addresses[n], servers, c.load.Consumer(n, structure), c.load.Plan())
		if m != nil {
			c.members[structure*c.nodes+n] = m
		}
		if err != nil {
			return fmt.Errorf("node %d, structure %d: %w", n, structure, err)
		}
	}
	t := time.NewTicker(look)
	defer t.Stop()
	for n := range addresses {
		for {
			if a, _ := c.member(n, structure).raft.LeaderWithID(); a != "" {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("structure %d has no leader: %w", structure, ctx.Err())
			case <-t.C:
			}
		}
	}
	return nil
}

func (s *settings) startMember(dir string, node int, address string, servers raft.Configuration, consumer *load.Consumer, plan load.Plan) (*member, error) {
	quiet := hclog.NewNullLogger()
	config := raft.DefaultConfig()
	config.LocalID = raft.ServerID(strconv.Itoa(node))
	config.Logger = quiet
	config.BatchApplyCh = true
	config.MaxAppendEntries = s.batch
	config.CommitTimeout = s.commitTimeout(plan)
	config.SnapshotThreshold = s.snapshot
	config.SnapshotInterval = 5 * time.Second // how often the threshold is looked at

	m := &member{consumer: consumer}
	logDir := filepath.Join(dir, "log")
	if err := os.MkdirAll(logDir, 0o755); err != nil {
		return nil, fmt.Errorf("raft-wal: %w", err)
	}
	var err error
	m.meta = &metadb.BoltMetaDB{}
	if m.log, err = wal.Open(logDir, wal.WithLogger(quiet), wal.WithMetaStore(m.meta), wal.WithSegmentSize(s.segment)); err != nil {
		return nil, fmt.Errorf("raft-wal: %w", err)
	}
	var logs raft.LogStore = m.log
	if s.cache > 0 {
		if logs, err = raft.NewLogCache(s.cache, m.log); err != nil {
			return m, fmt.Errorf("LogCache: %w", err)
		}
	}
	kept, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshots, quiet)
	if err != nil {
		return m, fmt.Errorf("snapshots: %w", err)
	}
	m.transport, err = raft.NewTCPTransportWithConfig(address, nil, &raft.NetworkTransportConfig{
		Logger: quiet, MaxPool: connections, MaxRPCsInFlight: s.inFlight, Timeout: rpcTimeout,
	})
	if err != nil {
		return m, fmt.Errorf("transport: %w", err)
	}
	there, err := raft.HasExistingState(logs, m.log, kept)
	if err == nil && !there {
		err = raft.BootstrapCluster(config, logs, m.log, kept, m.transport, servers)
	}
	if err != nil {
		return m, fmt.Errorf("bootstrap: %w", err)
	}
	if m.raft, err = raft.NewRaft(config, &machine{consumer: consumer}, logs, m.log, kept, m.transport); err != nil {
		return m, fmt.Errorf("raft: %w", err)
	}
	return m, nil
}

func (c *cluster) member(node, structure int) *member { return c.members[structure*c.nodes+node] }

// Leader asks each node.
func (c *cluster) Leader(structure int) (int, error) {
	for n := range c.nodes {
		if c.member(n, structure).raft.State() == raft.Leader {
			return n, nil
		}
	}
	return 0, fmt.Errorf("structure %d: no node leads it", structure)
}

// Propose applies at the leader, and forwards elsewhere.
func (c *cluster) Propose(node, structure int, payload []byte) error {
	m := c.member(node, structure)
	if m.raft.State() != raft.Leader {
		if m.forward == nil {
			m.forward = newForwarder(c, m, structure)
		}
		return m.forward.propose(payload)
	}
	if m.futures == nil {
		m.futures = make(chan proposed, c.load.Plan().Outstanding)
		m.settling.Go(func() { m.settle(c.done) })
	}
	select {
	case m.futures <- proposed{m.raft.Apply(payload, 0), payload}:
		return nil
	case <-c.done:
		return raft.ErrRaftShutdown
	}
}

// settle waits for the proposals in their order. That they were applied the
// state machine has said already.
func (m *member) settle(done <-chan struct{}) {
	for {
		select {
		case p := <-m.futures:
			if err := p.future.Error(); err != nil {
				time.Sleep(refused) // what is refused is refused at once, and followed by the next
				m.consumer.Failed(p.payload, err)
			}
		case <-done:
			return
		}
	}
}

// Kill ends a node's instances and connections. The library has no other end
// than Shutdown, which says nothing to the other nodes.
func (c *cluster) Kill(node int) error {
	var ends sync.WaitGroup
	for s := range len(c.members) / c.nodes {
		ends.Go(func() { c.member(node, s).end() })
	}
	c.receivers[node].close()
	ends.Wait()
	var errs []error
	for s := range len(c.members) / c.nodes {
		errs = append(errs, c.member(node, s).err)
	}
	return errors.Join(errs...)
}

func (m *member) end() {
	m.ending.Do(func() {
		var errs []error
		if m.transport != nil { // first: what is under way breaks off
			errs = append(errs, m.transport.Close())
			m.transport.CloseStreams()
		}
		if m.raft != nil {
			errs = append(errs, m.raft.Shutdown().Error())
		}
		if m.log != nil {
			errs = append(errs, m.log.Close(), m.meta.Close())
		}
		m.err = errors.Join(errs...)
	})
}

// unanswered is how long ends wait for futures: those of proposals that were
// under way in an instance that was shut down are never answered, and a
// goroutine that waits for one cannot be told to stop.
const unanswered = time.Second

func waitFor(these *sync.WaitGroup) {
	ended := make(chan struct{})
	go func() {
		these.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(unanswered):
	}
}

// Close ends all instances.
func (c *cluster) Close() error {
	close(c.done)
	var ends sync.WaitGroup
	for _, m := range c.members {
		if m != nil {
			ends.Go(m.end)
		}
	}
	ends.Wait()
	for _, r := range c.receivers {
		r.close()
	}
	var errs []error
	for _, m := range c.members {
		if m == nil {
			continue
		}
		errs = append(errs, m.err)
		if m.forward != nil {
			m.forward.close()
		}
		waitFor(&m.settling)
	}
	return errors.Join(errs...)
}
