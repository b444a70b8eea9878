package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/copycat-replication/copycat/bench/internal/load"
	"github.com/copycat-replication/copycat/bench/internal/ports"
)

const (
	startTimeout = 5 * time.Minute
	askTimeout   = 30 * time.Second // for one answer of a server
	askAgain     = time.Second
	look         = 20 * time.Millisecond
	account      = "$G" // where clients without an account are
	// starting bounds how many streams are created at the same time.
	starting   = 8
	maxPayload = 32 << 20
	maxStore   = 1 << 40 // the disk is the limit
	replicas   = 3
	// publishTimeout is after when a publication counts as failed that was not
	// acknowledged: those that a leader takes with it are not answered.
	publishTimeout = 10 * time.Second
	refused        = time.Millisecond // pause after a publication that failed
	pullAtATime    = 4096             // messages
)

// cluster is a server for each node.
type cluster struct {
	load    *load.Load
	acks    bool
	restart bool // the streams exist
	servers []*server.Server
	conns   []*nats.Conn
	streams []jetstream.JetStream // by node
	lanes   []*lane               // structure*nodes + node
	mu      sync.Mutex
	consume []jetstream.ConsumeContext
	done    chan struct{}
}

// lane waits for a node's publications to a stream.
type lane struct {
	start    sync.Once
	acks     chan jetstream.PubAckFuture
	settling sync.WaitGroup
}

func nameOf(structure int) string { return "s" + strconv.Itoa(structure) }

func (s *settings) open(ctx context.Context, dir string, l *load.Load) (_ load.System, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c := &cluster{load: l, acks: s.settle == "ack", done: make(chan struct{})}
	if !c.acks && s.settle != "delivery" {
		return nil, fmt.Errorf("settle %q is neither delivery nor ack", s.settle)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	_, err = os.Stat(filepath.Join(dir, "node0"))
	c.restart = err == nil
	if err := c.startServers(ctx, dir); err != nil {
		return nil, err
	}
	if err := c.connect(); err != nil {
		return nil, err
	}
	l.NodesReady()
	return c, c.createStreams(ctx)
}

func (c *cluster) startServers(ctx context.Context, dir string) error {
	p := c.load.Plan()
	addresses, err := ports.Keep(dir, p.Nodes)
	if err != nil {
		return err
	}
	var routes []*url.URL
	for _, a := range addresses {
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: a})
	}
	for n, a := range addresses {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			return fmt.Errorf("node %d: %w", n, err)
		}
		number, err := strconv.Atoi(port)
		if err != nil {
			return fmt.Errorf("node %d: %w", n, err)
		}
		name := fmt.Sprintf("node%d", n)
		srv, err := server.NewServer(&server.Options{
			ServerName: name, NoLog: true, Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, MaxPayload: maxPayload,
			JetStream: true, StoreDir: filepath.Join(dir, name), SyncAlways: true, SyncInterval: time.Hour,
			JetStreamMaxStore: maxStore, JetStreamMaxMemory: maxPayload,
			Cluster: server.ClusterOpts{Name: "bench", Host: host, Port: number},
			Routes:  routes,
		})
		if err != nil {
			return fmt.Errorf("node %d: %w", n, err)
		}
		c.servers = append(c.servers, srv)
		go srv.Start() // returns when the server has started; WaitForShutdown waits for the rest
	}
	return c.await(ctx, func() bool {
		leads := p.Nodes == 1
		for _, srv := range c.servers {
			if !srv.ReadyForConnections(look) || (p.Nodes > 1 && !srv.JetStreamIsCurrent()) {
				return false
			}
			leads = leads || (srv.JetStreamIsLeader() && len(srv.JetStreamClusterPeers()) == p.Nodes)
		}
		return leads
	})
}

func (c *cluster) await(ctx context.Context, cond func() bool) error {
	t := time.NewTicker(look)
	defer t.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the servers are not ready: %w", ctx.Err())
		case <-t.C:
		}
	}
	return nil
}

func (c *cluster) connect() error {
	for n, srv := range c.servers {
		conn, err := nats.Connect("", nats.InProcessServer(srv), nats.NoReconnect())
		if err != nil {
			return fmt.Errorf("client of node %d: %w", n, err)
		}
		c.conns = append(c.conns, conn)
		js, err := jetstream.New(conn,
			jetstream.WithPublishAsyncMaxPending(max(c.load.Plan().Outstanding, 1)),
			jetstream.WithDefaultTimeout(askTimeout),
			jetstream.WithPublishAsyncTimeout(publishTimeout),
			jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, msg *nats.Msg, err error) { c.refuse(n, msg, err) }))
		if err != nil {
			return fmt.Errorf("client of node %d: %w", n, err)
		}
		c.streams = append(c.streams, js)
	}
	return nil
}

// refuse takes back what a node has published in vain.
func (c *cluster) refuse(node int, msg *nats.Msg, err error) {
	if c.closing() {
		return
	}
	structure, perr := strconv.Atoi(msg.Subject[1:])
	if perr != nil {
		c.load.Warn(fmt.Errorf("publication to %q: %w", msg.Subject, err))
		return
	}
	time.Sleep(refused) // without a leader all fail at once
	c.load.Consumer(node, structure).Failed(msg.Data, err)
}

func (c *cluster) createStreams(ctx context.Context) error {
	p := c.load.Plan()
	for st := range p.Structures {
		for n := range p.Nodes {
			c.lanes = append(c.lanes, &lane{})
			if c.acks && n < p.Subscribed() {
				c.load.Consumer(n, st).SettledElsewhere()
			}
		}
	}
	var creating sync.WaitGroup
	errs := make([]error, p.Structures)
	room := make(chan struct{}, starting)
	for st := range p.Structures {
		room <- struct{}{}
		creating.Go(func() {
			defer func() { <-room }()
			errs[st] = c.createStream(ctx, st)
		})
	}
	creating.Wait()
	return errors.Join(errs...)
}

func (c *cluster) createStream(ctx context.Context, structure int) error {
	p := c.load.Plan()
	name := nameOf(structure)
	config := jetstream.StreamConfig{
		Name: name, Subjects: []string{name}, Storage: jetstream.FileStorage, Replicas: min(replicas, p.Nodes), MaxMsgSize: maxPayload,
	}
	err := patiently(ctx, func(ctx context.Context) error {
		js := c.streams[structure%p.Nodes]
		_, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) && !c.restart {
			_, err = js.CreateStream(ctx, config)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	for seat := range p.Seats() {
		var consumer jetstream.Consumer
		err := patiently(ctx, func(ctx context.Context) (err error) {
			consumer, err = c.streams[seat%p.Nodes].OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
			return err
		})
		if err != nil {
			return fmt.Errorf("consumer %d of stream %s: %w", seat, name, err)
		}
		to := c.load.Consumer(seat, structure)
		consuming, err := consumer.Consume(func(m jetstream.Msg) { to.Applied(m.Data()) }, jetstream.PullMaxMessages(pullAtATime),
			jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
				if !c.closing() {
					c.load.Warn(fmt.Errorf("consumer %d of stream %s: %w", seat, name, err))
				}
			}))
		if err != nil {
			return fmt.Errorf("consumer %d of stream %s: %w", seat, name, err)
		}
		c.mu.Lock()
		c.consume = append(c.consume, consuming)
		c.mu.Unlock()
	}
	return c.await(ctx, func() bool { _, err := c.Leader(structure); return err == nil })
}

// patiently asks again until there is an answer: after a restart the servers
// leave questions unanswered that come before a stream has its leader.
func patiently(ctx context.Context, ask func(context.Context) error) error {
	for {
		once, cancel := context.WithTimeout(ctx, askAgain)
		err := ask(once)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(look):
		}
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

// Leader asks the servers.
func (c *cluster) Leader(structure int) (int, error) {
	for n, srv := range c.servers {
		if srv.Running() && srv.JetStreamIsStreamLeader(account, nameOf(structure)) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("structure %d: no server leads its stream", structure)
}

// Propose publishes.
func (c *cluster) Propose(node, structure int, payload []byte) error {
	ln := c.lanes[structure*len(c.servers)+node]
	ack, err := c.streams[node].PublishAsync(nameOf(structure), payload)
	if err != nil {
		return err
	}
	if !c.acks {
		return nil
	}
	ln.start.Do(func() {
		ln.acks = make(chan jetstream.PubAckFuture, c.load.Plan().Outstanding)
		ln.settling.Go(func() { c.settle(ln, c.load.Consumer(node, structure)) })
	})
	select {
	case ln.acks <- ack:
		return nil
	case <-c.done:
		return server.ErrServerNotRunning
	}
}

// settle takes the acknowledgements in their order; refuse takes the others.
func (c *cluster) settle(ln *lane, consumer *load.Consumer) {
	for {
		select {
		case ack := <-ln.acks:
			select {
			case <-ack.Ok():
				consumer.Settled(ack.Msg().Data)
			case <-ack.Err():
			case <-c.done:
				return
			}
		case <-c.done:
			return
		}
	}
}

// Close ends clients and servers.
func (c *cluster) Close() error {
	close(c.done)
	for _, consuming := range c.consume {
		consuming.Stop()
		<-consuming.Closed()
	}
	for _, conn := range c.conns {
		conn.Close()
	}
	for _, ln := range c.lanes {
		ln.settling.Wait()
	}
	for _, srv := range c.servers {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
	return nil
}
