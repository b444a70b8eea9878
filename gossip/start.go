package gossip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/hashicorp/memberlist"
)

// resolveTimeout bounds the look-up of AdvertiseHost in Start.
const resolveTimeout = 5 * time.Second

// Start binds the gossip address and begins to listen. It joins nothing: until
// Join or Found the node is alone, unless Config.Cluster is set, in which case
// it lets in nodes of that cluster that come by themselves.
//
// Errors: ErrConfig, ErrAddressInUse (with the address), ErrNoAddress.
func Start(config Config) (*Gossip, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	g := newGossip(config)
	if err := g.bind(); err != nil {
		g.cancel()
		return nil, err
	}
	if err := g.setIdentity(config.Cluster, false); err != nil {
		g.cancel()
		return nil, errors.Join(err, g.network.Shutdown())
	}
	list, err := memberlist.Create(g.memberlistConfig())
	if err != nil {
		g.cancel()
		return nil, errors.Join(fmt.Errorf("starting gossip: %w", err), g.network.Shutdown())
	}
	g.list = list
	g.owned.Add(3 + senders)
	go g.run()
	go g.contactLoop()
	go g.rememberLoop()
	for range senders {
		go g.send()
	}
	return g, nil
}

func newGossip(config Config) *Gossip {
	config.Peers = slices.Clone(config.Peers)
	config.Remembered = slices.Clone(config.Remembered)
	config.Key = slices.Clone(config.Key)
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.BindAddress == "" {
		config.BindAddress = "0.0.0.0"
		if config.Profile == Local {
			config.BindAddress = "127.0.0.1"
		}
	}
	g := &Gossip{
		config: config, timing: config.Profile.timing(), name: config.Node.String(), since: time.Now(),
		log: config.Logger.With("node", config.Node.String()), inbox: newInbox(),
		jobs: make(chan job, maxJobs), members: make(map[id.Node]*member), changed: make(chan struct{}),
		directory: newDirectory(config.Node, config.Incarnation, defaultLimits), answering: make(map[id.Node]bool),
		done: make(chan struct{}),
	}
	g.adapter = &logAdapter{logger: g.log}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	seed := config.Node[:]
	random := rand.New(rand.NewPCG(binary.BigEndian.Uint64(seed[:8]), binary.BigEndian.Uint64(seed[8:])^config.Incarnation))
	g.contacts.init(config.Peers, config.Remembered, random, g.since)
	preset := config.Profile.memberlist()
	g.queue = &memberlist.TransmitLimitedQueue{RetransmitMult: preset.RetransmitMult, NumNodes: func() int {
		return 1 + int(g.contacts.alive.Load())
	}}
	return g
}

// bind opens the sockets, or takes the transport that it was given.
func (g *Gossip) bind() error {
	if t := g.config.Transport; t != nil {
		ip, port, err := t.FinalAdvertiseAddr(g.config.AdvertiseHost, g.config.BindPort)
		if err != nil {
			return errors.Join(fmt.Errorf("%w: %w", ErrNoAddress, err), t.Shutdown())
		}
		addr, ok := netip.AddrFromSlice(ip)
		if !ok {
			return errors.Join(fmt.Errorf("%w: the transport advertises %v", ErrNoAddress, ip), t.Shutdown())
		}
		g.network, g.address = handed{t}, netip.AddrPortFrom(addr.Unmap(), uint16(port))
	} else {
		ctx, cancel := context.WithTimeout(g.ctx, resolveTimeout)
		defer cancel()
		addr, err := advertised(ctx, g.config.AdvertiseHost, g.config.BindAddress)
		if err != nil {
			return err
		}
		s, err := listen(g.config.BindAddress, g.config.BindPort, addr)
		if err != nil {
			return err
		}
		g.network, g.address = s, netip.AddrPortFrom(addr, uint16(s.port))
	}
	g.host = g.config.AdvertiseHost
	if g.host == "" {
		g.host = g.address.Addr().String()
	}
	return nil
}

func (g *Gossip) memberlistConfig() *memberlist.Config {
	c := g.config.Profile.memberlist()
	c.Name = g.name
	c.SecretKey = g.config.Key
	c.Transport = g.network
	c.BindAddr, c.BindPort = g.config.BindAddress, int(g.address.Port())
	c.AdvertiseAddr, c.AdvertisePort = g.address.Addr().String(), int(g.address.Port())
	c.Logger = g.adapter.stdLogger()
	d := delegate{g}
	c.Delegate, c.Alive, c.Merge, c.Events, c.Conflict = d, d, d, d, d
	return c
}
