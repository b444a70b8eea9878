package copycat

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/gossip"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/nodestatus"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/snapshot"
	"github.com/copycat-replication/copycat/transport"
	"github.com/copycat-replication/copycat/wal"
)

// protocolVersion is told to other nodes; it counts what they must know of.
const protocolVersion = 1

// node is the one implementation of CopyCat. It wires the layers, and has no
// logic of its own beyond their life cycle.
type node struct {
	cfg *Config
	env environment
	log *slog.Logger

	dir       *dataDir
	wal       *wal.Log
	snapshots *snapshot.Store
	transport *transport.Transport
	gossip    atomic.Pointer[gossip.Gossip]
	host      atomic.Pointer[raftgroup.Host]
	catalog   atomic.Pointer[catalog.Service]
	ready     atomic.Bool // the node belongs to a cluster and answers
	leaving   atomic.Bool // Leave runs, or has ended well

	events eventBus
	socket *nodestatus.Server // for the command copycat; nil: there is none
	births singleflight.Group // subscriptions to one structure that nobody knows yet

	ctx      context.Context // of calls that wait: ends with Shutdown
	cancel   context.CancelFunc
	shutdown sync.Once
}

// NewCopyCat starts a node. On a data directory that has been in a cluster it
// returns at once and finds the cluster again by itself. On an empty one it
// starts a cluster if there are no peers, and otherwise waits up to
// Config.JoinTimeout for one of them: ErrNoCluster if none answers, unless
// Config.Bootstrap lets it start a cluster then.
//
// Other errors: ErrConfig, ErrDataDir (which ErrLocked, ErrNewerFormat and
// errors of the file system come wrapped in), ErrAddressInUse, ErrListen,
// ErrWrongCluster, ErrDiskFull and ErrStorageFailed. After an error nothing is left running, and the
// directory can be used again.
func NewCopyCat(config *Config) (CopyCat, error) {
	return newNode(config, environment{fs: vfs.OS{}})
}

func newNode(config *Config, env environment) (CopyCat, error) {
	if config == nil {
		return nil, configFault("config is nil")
	}
	cfg := config.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	// Files are opened as long as the node runs; the program may change its
	// working directory meanwhile.
	dir, err := filepath.Abs(cfg.CopyCatDataDir)
	if err != nil {
		return nil, fmt.Errorf("start CopyCat: %w: %s: %w", ErrDataDir, cfg.CopyCatDataDir, err)
	}
	cfg.CopyCatDataDir = filepath.ToSlash(dir)
	n := &node{cfg: cfg, env: env, log: cfg.Logger}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if err := n.start(); err != nil {
		n.Shutdown()
		return nil, fmt.Errorf("start CopyCat: %w", err)
	}
	return n, nil
}

func (n *node) start() error {
	bind, err := n.bindAddress()
	if err != nil {
		return err
	}
	if n.dir, err = openDataDir(n.env.fs, n.cfg.CopyCatDataDir, time.Now(), rand.Reader); err != nil {
		return err
	}
	self := n.dir.get()
	n.log = n.log.With("self", self.NodeID)
	if err := n.openStores(); err != nil {
		return err
	}
	if err := n.listen(self, bind); err != nil {
		return err
	}
	if err := n.startEngine(self); err != nil {
		return err
	}
	if err := n.enterCluster(self); err != nil {
		return err
	}
	n.serveStatus(self)
	return nil
}

// bindAddress is the address to listen on, as an IP address.
func (n *node) bindAddress() (string, error) {
	if n.cfg.BindAddress != "" {
		return n.cfg.BindAddress, nil
	}
	if net.ParseIP(n.cfg.Hostname) != nil {
		return n.cfg.Hostname, nil
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.JoinTimeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, n.cfg.Hostname)
	if err != nil || len(addresses) == 0 {
		return "", fmt.Errorf("%w: Hostname %q does not resolve (set BindAddress to listen elsewhere): %w", ErrConfig, n.cfg.Hostname, err)
	}
	return addresses[0], nil
}

// openStores opens what is on disk.
func (n *node) openStores() error {
	fail := func(err error) error { return fmt.Errorf("%w: %s: %w", ErrDataDir, n.cfg.CopyCatDataDir, err) }
	err := n.findLog()
	if err != nil {
		return fail(err)
	}
	n.wal, err = wal.Open(wal.Options{FS: n.env.fs, Dir: path.Join(n.cfg.CopyCatDataDir, "wal"), Cold: n.env.cold, Logger: n.log})
	if errors.Is(err, wal.ErrNewerFormat) {
		err = fmt.Errorf("%w: %w", ErrNewerFormat, err)
	}
	if err != nil {
		return fail(err)
	}
	n.wal.Start()
	n.snapshots, err = snapshot.OpenStore(snapshot.Options{FS: n.env.fs, Dir: path.Join(n.cfg.CopyCatDataDir, "snapshots"), Reserve: n.wal.Reserve(), Yield: n.wal.Yield, Logger: n.log})
	if err != nil {
		return fail(err)
	}
	return nil
}

// findLog refuses a directory whose log is gone, as where a disk of its own is not
// mounted. Replicas had their numbers from that log before they had snapshots: a new
// one would know none of them, and what is left of them would be swept away.
func (n *node) findLog() error {
	logs, snapshots := path.Join(n.cfg.CopyCatDataDir, "wal"), path.Join(n.cfg.CopyCatDataDir, "snapshots")
	empty, err := wal.Empty(n.env.fs, logs)
	if err != nil || !empty {
		return err
	}
	store, err := snapshot.OpenStore(snapshot.Options{FS: n.env.fs, Dir: snapshots})
	if err != nil {
		return err
	}
	groups, err := store.Groups()
	if err = errors.Join(err, store.Close()); err != nil || len(groups) == 0 {
		return err
	}
	return fmt.Errorf("there are snapshots in %s, and no log in %s: bring it back, or remove both directories to go on without the replicas that were here", snapshots, logs)
}

// listen opens the two ports. A port that was chosen freely once is kept, so
// that a restarted node is where the others look for it.
func (n *node) listen(self identity, bind string) error {
	err := listenOnPort(n.cfg.CopyCatPort, self.CopyCatPort, func(port int) (err error) {
		n.transport, err = transport.New(transport.Config{
			Node: self.node, Incarnation: self.Incarnation, Cluster: n.clusterWhenReady,
			BindAddress: bind, Port: port, TLS: n.cfg.TLS, Key: n.cfg.ClusterKey,
			Resolve: n.resolve, Handler: inbound{n}, Logger: n.log, Compress: n.far,
		})
		return err
	})
	if err != nil {
		return listenError(err)
	}
	port := n.transport.Addr().(*net.TCPAddr).Port
	err = listenOnPort(n.cfg.GossipPort, self.GossipPort, func(gossipPort int) error {
		g, err := gossip.Start(gossip.Config{
			Node: self.node, Incarnation: self.Incarnation, Cluster: self.cluster,
			BindAddress: bind, BindPort: gossipPort, AdvertiseHost: n.cfg.Hostname, TransportPort: port,
			DataCenter: n.cfg.DataCenter, Rack: n.cfg.Rack, Capacity: n.cfg.Capacity, Version: protocolVersion,
			Peers: n.cfg.PeersToContact, Remembered: self.Peers, Key: n.cfg.ClusterKey, Profile: n.cfg.Profile, Logger: n.log,
			Remember: n.remember,
		})
		if err == nil {
			n.gossip.Store(g)
		}
		return err
	})
	if err != nil {
		return listenError(err)
	}
	_, gossipPort := n.gossip.Load().Addr()
	if self.CopyCatPort == port && self.GossipPort == gossipPort {
		return nil
	}
	return n.dir.change(func(i *identity) { i.CopyCatPort, i.GossipPort = port, gossipPort })
}

func (n *node) startEngine(self identity) error {
	h, err := raftgroup.NewHost(raftgroup.Config{
		Node: self.node, Incarnation: self.Incarnation, Log: n.wal, Snapshots: n.snapshots,
		Network: outbound{n.transport}, Directory: directory{n.gossip.Load()}, Clock: systemClock{}, Logger: n.log,
		RTT: n.transport.RTT, Events: n.events.tell,
		ReplaceAfter: n.cfg.ReplaceAfter, SnapshotBandwidth: n.cfg.SnapshotBandwidth,
		SessionTimeout: n.env.sessionTimeout,
	})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDataDir, n.cfg.CopyCatDataDir, err)
	}
	n.host.Store(h)
	c, err := catalog.New(catalog.Config{
		Node: self.node, Engine: catalog.ForHost(h), Network: outbound{n.transport}, Directory: directory{n.gossip.Load()},
		Clock: systemClock{}, Logger: n.log,
	})
	if err != nil {
		return err
	}
	n.catalog.Store(c)
	h.Start()
	return nil
}

// enterCluster finds the cluster, or starts one (design, section 10).
func (n *node) enterCluster(self identity) error {
	g := n.gossip.Load()
	switch {
	case !self.cluster.IsZero():
		g.Found(self.cluster)
	case len(n.cfg.PeersToContact) == 0:
		if err := n.foundCluster(); err != nil {
			return err
		}
	default:
		ctx, cancel := context.WithTimeout(n.ctx, n.cfg.JoinTimeout)
		defer cancel()
		cluster, err := g.Join(ctx)
		switch {
		case err == nil:
			if err := n.dir.change(func(i *identity) { i.cluster = cluster }); err != nil {
				return err
			}
		case errors.Is(err, gossip.ErrNoCluster) && n.cfg.Bootstrap:
			n.log.Warn("no peer answered: starting a cluster, as Bootstrap says", "peers", n.cfg.PeersToContact)
			if err := n.foundCluster(); err != nil {
				return err
			}
		default:
			return fmt.Errorf("peers %s, within %s: %w", strings.Join(n.cfg.PeersToContact, " "), n.cfg.JoinTimeout, err)
		}
	}
	n.ready.Store(true)
	if n.dir.get().Founding {
		if err := n.foundCatalog(); err != nil {
			return err
		}
	}
	return nil
}

// foundCluster makes a cluster of this node. That it did so is durable before
// anything follows from it: a crash in between is made good at the next start.
func (n *node) foundCluster() error {
	cluster, err := id.NewCluster(time.Now(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make cluster ID: %w", err)
	}
	if err := n.dir.change(func(i *identity) { i.cluster, i.Founding = cluster, true }); err != nil {
		return err
	}
	n.log.Info("starting a new cluster", "cluster", cluster.String())
	n.gossip.Load().Found(cluster)
	return nil
}

func (n *node) foundCatalog() error {
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.JoinTimeout)
	defer cancel()
	if err := n.catalog.Load().FoundCatalog(ctx); err != nil {
		return err
	}
	return n.dir.change(func(i *identity) { i.Founding = false })
}

// clusterWhenReady is the transport's question whom to talk to: nobody, until
// the node can answer.
func (n *node) clusterWhenReady() id.Cluster {
	if !n.ready.Load() {
		return id.Cluster{}
	}
	return n.dir.get().cluster
}

func (n *node) resolve(other id.Node) (string, bool) {
	g := n.gossip.Load()
	if g == nil {
		return "", false
	}
	found, ok := g.Node(other)
	return found.Transport, ok && found.Transport != ""
}

// far tells whether a node is in another data center: what goes there crosses
// a link that is dearer than the processor time of compression.
func (n *node) far(other id.Node) bool {
	g := n.gossip.Load()
	if g == nil {
		return false
	}
	found, ok := g.Node(other)
	return ok && found.DataCenter != n.cfg.DataCenter
}

// remember keeps the addresses of peers for the next start.
func (n *node) remember(addresses []string) {
	if err := n.dir.change(func(i *identity) { i.Peers = addresses }); err != nil {
		n.log.Warn("addresses of peers not stored", "error", err)
	}
}

// Shutdown implements CopyCat. It also takes down a node that did not come up
// whole.
func (n *node) Shutdown() {
	n.shutdown.Do(func() {
		n.cancel()
		var errs []error
		if n.socket != nil {
			errs = append(errs, n.socket.Close())
		}
		// Subscriptions first, while the layers below can still serve them;
		// then the network; the disk last.
		if c := n.catalog.Load(); c != nil {
			errs = append(errs, c.Close())
		}
		if h := n.host.Load(); h != nil {
			errs = append(errs, h.Close())
		}
		n.events.close()
		n.ready.Store(false)
		if g := n.gossip.Load(); g != nil {
			errs = append(errs, g.Close())
		}
		for _, c := range []io.Closer{closer(n.transport), closer(n.wal), closer(n.snapshots)} {
			if c != nil {
				errs = append(errs, c.Close())
			}
		}
		if n.dir != nil {
			errs = append(errs, n.dir.close())
		}
		if err := errors.Join(errs...); err != nil {
			n.log.Error("shutdown", "error", err)
		}
	})
}

// closer is nil for a nil pointer, which a bare conversion to an interface is not.
func closer[T any, P interface {
	*T
	io.Closer
}](p P) io.Closer {
	if p == nil {
		return nil
	}
	return p
}
