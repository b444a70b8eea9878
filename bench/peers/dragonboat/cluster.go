package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/plugin/tan"
	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/copycat-replication/copycat/bench/internal/load"
	"github.com/copycat-replication/copycat/bench/internal/ports"
)

const (
	startTimeout = 10 * time.Minute
	look         = 20 * time.Millisecond
	// starting bounds how many shards are started at the same time.
	starting = 16
	// proposalTimeout is after when a proposal counts as failed.
	proposalTimeout = 30 * time.Second
	// busy is the pause after a proposal that was refused because the queue is full.
	busy = 50 * time.Microsecond
	// dropped is the pause after one that was dropped since there is no leader.
	dropped = time.Millisecond
	// electionTicks is how long a follower waits for its leader.
	electionTicks = 10
)

// cluster is a NodeHost for each node. What has an entry for each pair of
// structure and node has it at structure*nodes + node.
type cluster struct {
	load      *load.Load
	hosts     []*dragonboat.NodeHost
	ends      []sync.Once
	proposers []*proposer
	done      chan struct{}
}

// proposer is a lane's side of a node and structure.
type proposer struct {
	consumer *load.Consumer
	session  *client.Session
	start    sync.Once
	results  chan proposed
	settling sync.WaitGroup
}

type proposed struct {
	state   *dragonboat.RequestState
	payload []byte
}

func shardOf(structure int) uint64 { return uint64(structure) + 1 }
func replicaOf(node int) uint64    { return uint64(node) + 1 }

func (s *settings) open(ctx context.Context, dir string, l *load.Load) (_ load.System, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p := l.Plan()
	c := &cluster{load: l, ends: make([]sync.Once, p.Nodes), proposers: make([]*proposer, p.Structures*p.Nodes), done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	addresses, err := ports.Keep(dir, p.Nodes)
	if err != nil {
		return nil, err
	}
	members := make(map[uint64]dragonboat.Target)
	for n, a := range addresses {
		members[replicaOf(n)] = a
		hc := config.NodeHostConfig{
			NodeHostDir: filepath.Join(dir, fmt.Sprintf("node%d", n)), RaftAddress: a, RTTMillisecond: s.tick,
			Expert: config.GetDefaultExpertConfig(),
		}
		switch s.log {
		case "tan":
			hc.Expert.LogDBFactory = tan.Factory
		case "pebble":
		default:
			return nil, fmt.Errorf("log store %q is neither tan nor pebble", s.log)
		}
		host, err := dragonboat.NewNodeHost(hc)
		if err != nil {
			return nil, fmt.Errorf("node %d: %w", n, err)
		}
		c.hosts = append(c.hosts, host)
	}
	l.NodesReady()
	var starts sync.WaitGroup
	errs := make([]error, p.Structures)
	room := make(chan struct{}, starting)
	for st := range p.Structures {
		room <- struct{}{}
		starts.Go(func() {
			defer func() { <-room }()
			errs[st] = s.startShard(ctx, c, st, members)
		})
	}
	starts.Wait()
	return c, errors.Join(errs...)
}

func (s *settings) startShard(ctx context.Context, c *cluster, structure int, members map[uint64]dragonboat.Target) error {
	for n, host := range c.hosts {
		consumer := c.load.Consumer(n, structure)
		create := func(uint64, uint64) statemachine.IConcurrentStateMachine { return &machine{consumer: consumer} }
		err := host.StartConcurrentReplica(members, false, create, config.Config{
			ReplicaID: replicaOf(n), ShardID: shardOf(structure), CheckQuorum: true, PreVote: true,
			ElectionRTT: electionTicks, HeartbeatRTT: 1,
			SnapshotEntries: s.snapshot, CompactionOverhead: s.snapshot / 10, Quiesce: s.quiesce,
		})
		if err != nil {
			return fmt.Errorf("node %d, structure %d: %w", n, structure, err)
		}
		c.proposers[structure*len(c.hosts)+n] = &proposer{consumer: consumer, session: host.GetNoOPSession(shardOf(structure))}
	}
	t := time.NewTicker(look)
	defer t.Stop()
	for n, host := range c.hosts {
		for {
			if _, _, known, err := host.GetLeaderID(shardOf(structure)); err == nil && known {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("node %d knows no leader of structure %d: %w", n, structure, ctx.Err())
			case <-t.C:
			}
		}
	}
	return nil
}

// Leader asks the nodes that run.
func (c *cluster) Leader(structure int) (int, error) {
	for _, host := range c.hosts {
		if leader, _, known, err := host.GetLeaderID(shardOf(structure)); err == nil && known {
			return int(leader) - 1, nil
		}
	}
	return 0, fmt.Errorf("structure %d: no node knows a leader", structure)
}

// Propose proposes at the node; dragonboat forwards to the leader.
func (c *cluster) Propose(node, structure int, payload []byte) error {
	p := c.proposers[structure*len(c.hosts)+node]
	p.start.Do(func() {
		p.results = make(chan proposed, c.load.Plan().Outstanding)
		p.settling.Go(func() { p.settle(c.done) })
	})
	for {
		state, err := c.hosts[node].Propose(p.session, payload, proposalTimeout)
		switch {
		case err == nil:
			select {
			case p.results <- proposed{state, payload}:
				return nil
			case <-c.done:
				return dragonboat.ErrClosed
			}
		case !errors.Is(err, dragonboat.ErrSystemBusy):
			return err
		}
		select {
		case <-c.done:
			return dragonboat.ErrClosed
		case <-time.After(busy):
		}
	}
}

// settle takes the results in their order. That proposals were applied the
// state machine has said already.
func (p *proposer) settle(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case next := <-p.results:
			select {
			case <-done:
				return
			case result := <-next.state.ResultC():
				if result.Completed() {
					next.state.Release()
					continue
				}
				if result.Dropped() {
					time.Sleep(dropped)
				}
				p.consumer.Failed(next.payload, fmt.Errorf("%w: %s", errProposal, reason(&result)))
			}
		}
	}
}

var errProposal = errors.New("proposal was not completed")

func reason(r *dragonboat.RequestResult) string {
	switch {
	case r.Timeout():
		return "timeout"
	case r.Dropped():
		return "dropped"
	case r.Terminated():
		return "terminated"
	case r.Rejected():
		return "rejected"
	}
	return "aborted"
}

// Kill closes a node's NodeHost, which says nothing to the others.
func (c *cluster) Kill(node int) error {
	c.ends[node].Do(c.hosts[node].Close)
	return nil
}

// Close ends all nodes.
func (c *cluster) Close() error {
	close(c.done)
	var ends sync.WaitGroup
	for n := range c.hosts {
		ends.Go(func() { c.ends[n].Do(c.hosts[n].Close) })
	}
	ends.Wait()
	for _, p := range c.proposers {
		if p != nil {
			p.settling.Wait()
		}
	}
	return nil
}
