package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"

	"github.com/copycat-replication/copycat/id"
	"github.com/hashicorp/memberlist"
)

// Config says who this node is and how to gossip. Start copies it; slices must
// not be changed after that.
type Config struct {
	// Node is this node's ID; no two running processes may share one.
	Node id.Node
	// Incarnation counts the starts of this node's process. It comes from the
	// data directory and is greater at every start: others prefer the greater
	// one, and ignore what a smaller one says about its replicas.
	Incarnation uint64
	// Cluster is the cluster that this node is a member of; zero: of none yet.
	Cluster id.Cluster

	// BindAddress is the IP address to listen on. Empty: all interfaces, with
	// the Local profile 127.0.0.1.
	BindAddress string
	// BindPort is used for UDP and TCP. 0: a free one.
	BindPort int
	// AdvertiseHost is the IP address or host name at which others reach this
	// node. Empty: the bound address, or a private address of this machine. A
	// name is resolved once, by Start, since gossip wants an address; the name
	// itself travels along for the transport's address.
	AdvertiseHost string
	// TransportPort is the node-to-node port that others should use.
	TransportPort int

	DataCenter, Rack string // at most 64 bytes each
	Capacity         uint32
	Version          uint32

	// Peers are gossip addresses, host:port, given by the user. A host name may
	// stand for many nodes; it is resolved anew at every attempt.
	Peers []string
	// Remembered are addresses known from earlier runs (see Remember). At most
	// 256 are used.
	Remembered []string

	// Key encrypts all gossip with AES-GCM: 16, 24 or 32 bytes, or none. Every
	// holder of the key can forge or kill members; without a key, everyone can.
	Key []byte
	// Profile picks the time-outs. The zero value is LAN.
	Profile Profile
	// Logger takes the log; nil discards it. Its handler may be called while
	// memberlist holds a lock: it must not call back into this Gossip's Join,
	// Found, Leave or Close.
	Logger *slog.Logger
	// Transport replaces real sockets. Start takes it over, unless it returns
	// ErrConfig, and shuts it down, also when it fails.
	Transport memberlist.Transport
	// Remember, if set, is called with the addresses (host:port, sorted, at
	// most 256) to be handed in as Remembered by the next run, whenever they
	// change: from a goroutine of gossip's own that does nothing else, never
	// concurrently, never under a lock, at the latest before Close returns.
	// The slice belongs to the callee. It must not call Close.
	Remember func(addresses []string)
}

// Profile is a named set of time-outs.
type Profile uint8

const (
	// LAN is for nodes with round trips of some milliseconds.
	LAN Profile = iota
	// WAN is for nodes in several data centers.
	WAN
	// Local is for nodes of one machine: development and tests.
	Local
)

// String returns the name of the profile.
func (p Profile) String() string {
	switch p {
	case LAN:
		return "LAN"
	case WAN:
		return "WAN"
	case Local:
		return "Local"
	}
	return "Profile(" + strconv.Itoa(int(p)) + ")"
}

// check reports every fault at once.
func (c *Config) check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Node.IsZero() {
		fault("Node is not set")
	}
	if c.BindAddress != "" && net.ParseIP(c.BindAddress) == nil {
		fault("BindAddress %q is no IP address", c.BindAddress)
	}
	if c.BindPort < 0 || c.BindPort > 65535 {
		fault("BindPort %d is no port", c.BindPort)
	}
	if c.TransportPort < 0 || c.TransportPort > 65535 {
		fault("TransportPort %d is no port", c.TransportPort)
	}
	if len(c.AdvertiseHost) > maxHost {
		fault("AdvertiseHost has %d bytes, at most %d", len(c.AdvertiseHost), maxHost)
	}
	if len(c.DataCenter) > maxLocation || len(c.Rack) > maxLocation {
		fault("DataCenter has %d bytes and Rack %d, at most %d each", len(c.DataCenter), len(c.Rack), maxLocation)
	}
	switch len(c.Key) {
	case 0, 16, 24, 32:
	default:
		fault("Key has %d bytes, must have 16, 24 or 32", len(c.Key))
	}
	if c.Profile > Local {
		fault("unknown %v", c.Profile)
	}
	for _, peer := range c.Peers {
		if err := checkAddress(peer); err != nil {
			fault("Peers: %w", err)
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrConfig, errors.Join(faults...))
}

// checkAddress checks host:port without resolving the host.
func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return fmt.Errorf("%q is not host:port", address)
	}
	return nil
}
