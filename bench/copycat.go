package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/copycat-replication/copycat"
	"github.com/copycat-replication/copycat/bench/internal/load"
)

const (
	// startTimeout bounds the time until all structures are ready, with
	// startEach more for each of them.
	startTimeout = 2 * time.Minute
	startEach    = 40 * time.Millisecond
	// look is the least pause between two looks at a node's status. A look at many
	// structures costs time that they need to start, so the pause is lookShare
	// times as long as the last one took; but it is lookMost at most, since what
	// is waited for is measured by it.
	look      = 20 * time.Millisecond
	lookShare = 20
	lookMost  = time.Second
	// tell is the least time between two lines that say how far the structures are.
	tell = time.Second
	// births bounds how many structures are created at the same time.
	births = 16
)

// cluster is a CopyCat of several nodes in this process, under load.
type cluster struct {
	load  *load.Load
	nodes []copycat.CopyCat
	ids   []*copycat.ID
	subs  []*subscriber // structure*seats + seat
	done  chan struct{} // closed: the system closes

	neighbour *neighbour // nil: none
}

// subscriber is one node's subscription to one structure.
type subscriber struct {
	propose  chan<- []byte
	consumer *load.Consumer
	serving  sync.WaitGroup
}

func (s *settings) open(ctx context.Context, dir string, l *load.Load) (_ load.System, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout+time.Duration(l.Plan().Structures)*startEach)
	defer cancel()
	c := &cluster{load: l, done: make(chan struct{}), subs: make([]*subscriber, l.Plan().Structures*l.Plan().Seats())}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	_, err = os.Stat(nodeDir(dir, 0))
	restart := err == nil
	if err := s.startNodes(ctx, c, dir); err != nil {
		return nil, err
	}
	l.NodesReady()
	if s.detached {
		err = c.allocateAll(ctx, restart)
	} else {
		err = c.subscribeAll(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := c.awaitVoters(ctx, s.detached); err != nil {
		return nil, err
	}
	if s.beside != "" {
		c.neighbour, err = s.startNeighbour(c)
	}
	return c, err
}

// structureID is the same in each run on a directory: the ID of structure n.
func structureID(n int) (*copycat.ID, error) {
	return copycat.ParseID(fmt.Sprintf("01CFR5R4JJE9KNRAJF%08d", n))
}

// allocateAll creates structures that nobody subscribes to; after a restart
// they are there.
func (c *cluster) allocateAll(ctx context.Context, restart bool) error {
	if restart {
		return nil
	}
	var allocating sync.WaitGroup
	room := make(chan struct{}, births)
	errs := make([]error, c.load.Plan().Structures)
	for s := range errs {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			allocating.Wait()
			return fmt.Errorf("create structure %d of %d: %w", s, len(errs), errors.Join(append(errs, context.Cause(ctx))...))
		}
		allocating.Go(func() {
			defer func() { <-room }()
			_, errs[s] = c.nodes[s%len(c.nodes)].AllocateNewDataStructure()
		})
	}
	allocating.Wait()
	return errors.Join(errs...)
}

func nodeDir(dir string, node int) string { return filepath.Join(dir, fmt.Sprintf("node%d", node)) }

// startNodes starts one node, has the others join it, and waits until all see all.
func (s *settings) startNodes(ctx context.Context, c *cluster, dir string) error {
	var logger *slog.Logger
	if s.logLevel != "" {
		var level slog.Level
		if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
			return fmt.Errorf("log: %w", err)
		}
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	}
	var peers []string
	for i := range c.load.Plan().Nodes {
		cfg := copycat.DefaultConfig()
		cfg.Hostname, cfg.CopyCatPort, cfg.GossipPort = "127.0.0.1", 0, 0
		cfg.CopyCatDataDir = nodeDir(dir, i)
		cfg.Rack = fmt.Sprintf("rack%d", i)
		cfg.PeersToContact = peers
		if s.snapshotEntries > 0 {
			cfg.SnapshotEntries = s.snapshotEntries
		}
		if s.snapshotBytes > 0 {
			cfg.SnapshotBytes = s.snapshotBytes
		}
		if logger != nil {
			cfg.Logger = logger.With("node", i)
		}
		node, err := copycat.NewCopyCat(cfg)
		if err != nil {
			return fmt.Errorf("node %d: %w", i, err)
		}
		c.nodes = append(c.nodes, node)
		if i == 0 {
			peers = []string{node.Status().GossipAddress}
		}
	}
	for i, node := range c.nodes {
		err := await(ctx, node, func(st *copycat.Status) bool { return alive(st) == len(c.nodes) })
		if err != nil {
			st := node.Status()
			return fmt.Errorf("node %d sees %d of %d nodes: %w", i, alive(&st), len(c.nodes), err)
		}
	}
	return nil
}

func alive(st *copycat.Status) (n int) {
	for _, node := range st.Nodes {
		if node.Alive {
			n++
		}
	}
	return n
}

// await looks at a node's status until it satisfies cond.
func await(ctx context.Context, node copycat.CopyCat, cond func(*copycat.Status) bool) error {
	for {
		began := time.Now()
		if st := node.Status(); cond(&st) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(max(look, lookShare*time.Since(began)), lookMost)):
		}
	}
}

// subscribeAll subscribes every node to every structure: the nodes at the same
// moment, as programs do that start together.
func (c *cluster) subscribeAll(ctx context.Context) error {
	structures := c.load.Plan().Structures
	for s := range structures {
		id, err := structureID(s)
		if err != nil {
			return fmt.Errorf("ID of structure %d: %w", s, err)
		}
		c.ids = append(c.ids, id)
	}
	var subscribing sync.WaitGroup
	seats := c.load.Plan().Seats()
	errs := make(chan error, structures*seats)
	room := make(chan struct{}, births)
	for s := range structures {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			subscribing.Wait()
			close(errs)
			return fmt.Errorf("subscribe to structure %d of %d: %w", s, structures, errors.Join(context.Cause(ctx), joined(errs)))
		}
		subscribing.Go(func() {
			defer func() { <-room }()
			var nodes sync.WaitGroup
			for seat := range seats {
				nodes.Go(func() { errs <- c.subscribe(seat, s) })
			}
			nodes.Wait()
		})
	}
	subscribing.Wait()
	close(errs)
	return joined(errs)
}

// joined is all errors of a channel that is closed.
func joined(errs <-chan error) (all error) {
	for err := range errs {
		all = errors.Join(all, err)
	}
	return all
}

func (c *cluster) subscribe(seat, structure int) error {
	node := seat % len(c.nodes)
	consumer := c.load.Consumer(seat, structure)
	provide := func() ([]byte, error) { return consumer.Snapshot(), nil }
	propose, commits, errs, consume, err := c.nodes[node].SubscribeToDataStructure(c.ids[structure], provide)
	if err != nil {
		return fmt.Errorf("node %d: subscribe to structure %d: %w", node, structure, err)
	}
	sub := &subscriber{propose: propose, consumer: consumer}
	c.subs[structure*c.load.Plan().Seats()+seat] = sub
	sub.serving.Go(func() { c.apply(sub, commits, consume) })
	sub.serving.Go(func() { c.listen(sub, errs) })
	return nil
}

// apply is the user's side of the commit channel.
func (c *cluster) apply(sub *subscriber, commits <-chan []byte, consume copycat.SnapshotConsumer) {
	for payload := range commits {
		if payload != nil {
			sub.consumer.Applied(payload)
			continue
		}
		snapshot, err := consume()
		if err == nil {
			err = sub.consumer.Restore(snapshot)
		}
		if err != nil {
			c.warn(fmt.Errorf("load a snapshot: %w", err))
		}
	}
}

func (c *cluster) listen(sub *subscriber, errs <-chan error) {
	for err := range errs {
		var failed *copycat.ProposalError
		if errors.As(err, &failed) && !c.closing() {
			sub.consumer.Failed(failed.Proposal, err)
			continue
		}
		c.warn(err)
	}
}

// warn counts complaints, but not those of the shutdown.
func (c *cluster) warn(err error) {
	if !c.closing() {
		c.load.Warn(err)
	}
}

func (c *cluster) closing() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// awaitVoters waits until each structure has a leader, known to all, and as
// many voters as it is to have.
func (c *cluster) awaitVoters(ctx context.Context, detached bool) error {
	structures := c.load.Plan().Structures
	voters := 1
	if len(c.nodes) >= 3 {
		voters = 3
	}
	began := time.Now()
	told := began
	for n, node := range c.nodes {
		interactive := !detached && n < c.load.Plan().Subscribed()
		ready := func(s *copycat.StructureStatus) bool {
			return s.Leader != "" && len(s.Voters) >= voters && s.Interactive == interactive
		}
		err := await(ctx, node, func(st *copycat.Status) bool {
			count := 0
			for i := range st.Structures {
				if s := &st.Structures[i]; !s.Catalog && ready(s) {
					count++
				}
			}
			if now := time.Now(); now.Sub(told) >= tell {
				told = now
				fmt.Fprintf(os.Stderr, "%5.0f s  node %d: %d of %d structures have a leader and their voters\n", now.Sub(began).Seconds(), n, count, structures)
			}
			return count >= structures
		})
		if err != nil {
			st := node.Status()
			return fmt.Errorf("node %d: not all of %d structures have a leader and %d voters: %s: %w", n, structures, voters, unready(&st, ready), err)
		}
	}
	return nil
}

// unready describes the first structure on a node that is not as it should be.
func unready(st *copycat.Status, ready func(*copycat.StructureStatus) bool) string {
	known := 0
	for i := range st.Structures {
		s := &st.Structures[i]
		if s.Catalog {
			continue
		}
		if known++; ready(s) {
			continue
		}
		line := fmt.Sprintf("%s is a %s at term %d with leader %q, %d voters, interactive %t, applied %d of %d", s.ID.String(), s.Role, s.Term, s.Leader, len(s.Voters), s.Interactive, s.Applied, s.Commit)
		if s.Waits != "" {
			line += ", " + s.Waits
		}
		if s.LastError != nil {
			line += ", " + s.LastError.Error()
		}
		return line
	}
	return fmt.Sprintf("the node has %d", known)
}

// Leader finds the node that leads a structure's group.
func (c *cluster) Leader(structure int) (int, error) {
	if len(c.ids) == 0 {
		return 0, fmt.Errorf("%w: no node has subscribed", load.ErrUnsupported)
	}
	for n, node := range c.nodes {
		st := node.Status()
		for i := range st.Structures {
			if s := &st.Structures[i]; s.ID == *c.ids[structure] && s.Role == "leader" {
				return n, nil
			}
		}
	}
	return 0, fmt.Errorf("structure %s: no node leads it", c.ids[structure])
}

// Kept looks at the statuses of all nodes.
func (c *cluster) Kept(structure int) bool {
	for _, node := range c.nodes {
		st := node.Status()
		if !slices.ContainsFunc(st.Structures, func(s copycat.StructureStatus) bool { return s.ID == *c.ids[structure] && s.Snapshot > 0 }) {
			return false
		}
	}
	return true
}

// Propose sends on the subscription's propose channel.
func (c *cluster) Propose(node, structure int, payload []byte) error {
	sub := c.subs[structure*c.load.Plan().Seats()+node]
	select {
	case sub.propose <- payload: // a select of one channel costs less
		return nil
	default:
	}
	select {
	case sub.propose <- payload:
		return nil
	case <-c.done:
		return copycat.ErrClosed
	}
}

// Kill shuts a node down, which says nothing to the others: they take it for crashed.
func (c *cluster) Kill(node int) error {
	c.nodes[node].Shutdown()
	return nil
}

// Close shuts all nodes down, and waits until nothing is delivered any more.
func (c *cluster) Close() error {
	close(c.done)
	var closing sync.WaitGroup
	for _, node := range c.nodes {
		closing.Go(node.Shutdown)
	}
	closing.Wait()
	for _, sub := range c.subs {
		if sub != nil {
			sub.serving.Wait()
		}
	}
	if c.neighbour != nil {
		c.neighbour.working.Wait()
	}
	return nil
}
