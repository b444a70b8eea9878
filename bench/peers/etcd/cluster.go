package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/copycat-replication/copycat/bench/internal/load"
	"github.com/copycat-replication/copycat/bench/internal/ports"
)

const (
	startTimeout = 2 * time.Minute
	look         = 20 * time.Millisecond
	quotaBytes   = 8 << 30 // the most that etcd advises
	// refused is the pause after a Put that failed: without a leader all of
	// them do, at once.
	refused = time.Millisecond
	// keyBytes of each key: structure and node, so that a structure is a range.
	keyBytes = 5
)

func keyOf(structure, node int) string {
	return string(append(binary.BigEndian.AppendUint32(nil, uint32(structure)), byte(node)))
}

// cluster is a member for each node.
type cluster struct {
	load     *load.Load
	members  []*member
	lanes    []*lane // structure*nodes + node
	ctx      context.Context
	cancel   context.CancelFunc
	watching sync.WaitGroup
	watchers []*watcher
	latest   []atomic.Int64 // by structure: the revision of the last change that the first watcher was handed
	proposed atomic.Bool    // anything at all
}

type member struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	ending sync.Once
	dead   atomic.Bool
}

// watcher hands the events of one member to the consumers of a seat.
type watcher struct {
	seat      int
	structure int // or all
	member    *member
	revision  atomic.Int64 // seen
}

// all structures are watched by the first watcher of each member.
const all = -1

// lane is where a node's proposals for a structure wait for a goroutine.
type lane struct {
	start   sync.Once
	queue   chan []byte
	putting sync.WaitGroup
}

func (s *settings) open(ctx context.Context, dir string, l *load.Load) (_ load.System, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p := l.Plan()
	c := &cluster{load: l, members: make([]*member, p.Nodes), latest: make([]atomic.Int64, p.Structures)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	l.Unordered()
	if err := s.startMembers(ctx, c, dir); err != nil {
		return nil, err
	}
	l.NodesReady()
	for st := range p.Structures {
		for n := range p.Nodes {
			c.lanes = append(c.lanes, &lane{})
			if n < p.Subscribed() {
				l.Consumer(n, st).SettledElsewhere()
			}
		}
	}
	return c, c.watchAll(ctx)
}

func (s *settings) startMembers(ctx context.Context, c *cluster, dir string) error {
	n := len(c.members)
	addresses, err := ports.Keep(dir, 2*n)
	if err != nil {
		return err
	}
	var cluster []string
	for i := range n {
		cluster = append(cluster, fmt.Sprintf("node%d=http://%s", i, addresses[i]))
	}
	for i := range n {
		cfg := embed.NewConfig()
		cfg.Name = fmt.Sprintf("node%d", i)
		cfg.Dir = filepath.Join(dir, cfg.Name)
		peer := url.URL{Scheme: "http", Host: addresses[i]}
		client := url.URL{Scheme: "http", Host: addresses[n+i]}
		cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		cfg.InitialCluster = strings.Join(cluster, ",")
		cfg.LogLevel = "panic"
		cfg.SnapshotCount = s.snapshot
		cfg.QuotaBackendBytes = quotaBytes
		e, err := embed.StartEtcd(cfg)
		if err != nil {
			return fmt.Errorf("node %d: %w", i, err)
		}
		c.members[i] = &member{etcd: e, client: v3client.New(e.Server)}
	}
	for i, m := range c.members {
		select {
		case <-m.etcd.Server.ReadyNotify():
		case err := <-m.etcd.Err():
			return fmt.Errorf("node %d: %w", i, err)
		case <-ctx.Done():
			return fmt.Errorf("node %d is not ready: %w", i, ctx.Err())
		}
	}
	return nil
}

// watchAll starts the watchers, from the first revision on, and waits until
// the server has them.
func (c *cluster) watchAll(ctx context.Context) error {
	p := c.load.Plan()
	for n, m := range c.members {
		if n < p.Subscribed() {
			events := m.client.Watch(c.ctx, "", clientv3.WithPrefix(), clientv3.WithRev(1), clientv3.WithCreatedNotify())
			if err := created(ctx, events); err != nil {
				return fmt.Errorf("watcher of node %d: %w", n, err)
			}
			c.watch(events, n, all)
		}
	}
	for seat := p.Nodes; seat < p.Seats(); seat++ { // they only look on
		for st := range p.Structures {
			first := keyOf(st, 0)
			events := c.members[seat%p.Nodes].client.Watch(c.ctx, first, clientv3.WithRange(keyOf(st+1, 0)), clientv3.WithRev(1), clientv3.WithCreatedNotify())
			if err := created(ctx, events); err != nil {
				return fmt.Errorf("watcher %d: %w", seat, err)
			}
			c.watch(events, seat, st)
		}
	}
	return nil
}

func created(ctx context.Context, events clientv3.WatchChan) error {
	select {
	case r := <-events:
		return r.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *cluster) watch(events clientv3.WatchChan, seat, structure int) {
	w := &watcher{seat: seat, structure: structure, member: c.members[seat%len(c.members)]}
	c.watchers = append(c.watchers, w)
	c.watching.Go(func() { c.serve(w, events) })
}

func (c *cluster) serve(w *watcher, events clientv3.WatchChan) {
	for r := range events {
		for _, e := range r.Events {
			if len(e.Kv.Key) == keyBytes {
				st := int(binary.BigEndian.Uint32(e.Kv.Key))
				c.load.Consumer(w.seat, st).Applied(e.Kv.Value)
				if w.seat == 0 {
					c.latest[st].Store(e.Kv.ModRevision)
				}
			}
		}
		if n := len(r.Events); n > 0 {
			w.revision.Store(r.Events[n-1].Kv.ModRevision)
		}
		if err := r.Err(); err != nil && c.ctx.Err() == nil && !w.member.dead.Load() {
			c.load.Warn(fmt.Errorf("watcher %d: %w", w.seat, err))
		}
	}
}

// catchUp waits until the watchers of all ranges have seen what any member has
// applied, and then the others what those have seen of their range: a Put returns
// before its event is handed out, and before the other members have applied it.
func (c *cluster) catchUp() {
	if !c.proposed.Load() {
		return
	}
	var applied int64
	for _, m := range c.members {
		if m != nil && !m.dead.Load() {
			applied = max(applied, m.etcd.Server.KV().Rev())
		}
	}
	late := time.NewTimer(startTimeout)
	defer late.Stop()
	t := time.NewTicker(look)
	defer t.Stop()
	for _, w := range c.watchers {
		goal := applied
		if w.structure != all { // after those of all ranges, which come first
			goal = c.latest[w.structure].Load()
		}
		for !w.member.dead.Load() && w.revision.Load() < goal {
			select {
			case <-t.C:
			case <-late.C:
				c.load.Warn(fmt.Errorf("watcher %d did not catch up in %v", w.seat, startTimeout))
				return
			}
		}
	}
}

// Leader is the same for all structures.
func (c *cluster) Leader(int) (int, error) {
	for n, m := range c.members {
		if s := m.etcd.Server; s.Leader() == s.MemberID() {
			return n, nil
		}
	}
	return 0, errors.New("no member leads")
}

// Propose hands the payload to a goroutine that puts it.
func (c *cluster) Propose(node, structure int, payload []byte) error {
	ln := c.lanes[structure*len(c.members)+node]
	ln.start.Do(func() { c.startLane(ln, node, structure) })
	select {
	case ln.queue <- payload:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// startLane starts as many goroutines as the lane may have outstanding.
func (c *cluster) startLane(ln *lane, node, structure int) {
	c.proposed.Store(true)
	p := c.load.Plan()
	ln.queue = make(chan []byte)
	key, client, consumer := keyOf(structure, node), c.members[node].client, c.load.Consumer(node, structure)
	lanes := p.Structures
	if p.Proposers == load.AtAll {
		lanes *= p.Subscribed()
	}
	for range (p.Outstanding + lanes - 1) / lanes {
		ln.putting.Go(func() {
			for {
				select {
				case payload := <-ln.queue:
					c.put(client, consumer, key, payload)
				case <-c.ctx.Done():
					return
				}
			}
		})
	}
}

func (c *cluster) put(client *clientv3.Client, consumer *load.Consumer, key string, payload []byte) {
	_, err := client.Put(c.ctx, key, string(payload))
	if err == nil {
		consumer.Settled(payload)
		return
	}
	if c.ctx.Err() == nil {
		select {
		case <-time.After(refused):
		case <-c.ctx.Done():
		}
	}
	consumer.Failed(payload, err)
}

// Kill stops a member without coordination with the others: no leadership is
// handed over.
func (c *cluster) Kill(node int) error {
	c.members[node].dead.Store(true)
	c.members[node].end()
	return nil
}

func (m *member) end() {
	m.ending.Do(func() {
		m.etcd.Server.HardStop()
		m.etcd.Close()
	})
}

// Close ends all members.
func (c *cluster) Close() error {
	c.catchUp()
	c.cancel()
	var ends sync.WaitGroup
	for _, m := range c.members {
		if m != nil {
			ends.Go(m.end)
		}
	}
	ends.Wait()
	for _, ln := range c.lanes {
		ln.putting.Wait()
	}
	for _, m := range c.members {
		if m != nil {
			_ = m.client.Close() // its server is gone
		}
	}
	c.watching.Wait()
	return nil
}
