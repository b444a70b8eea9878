package copycat

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/copycat-replication/copycat/gossip"
)

// Profile is a named set of time-outs for a kind of network.
type Profile = gossip.Profile

// The profiles.
const (
	// LAN is for nodes with round trips of some milliseconds.
	LAN = gossip.LAN
	// WAN is for nodes in several data centers.
	WAN = gossip.WAN
	// Local is for nodes of one machine: development and tests.
	Local = gossip.Local
)

// Config says how a node works. The zero value of a field means its default.
// NewCopyCat copies the struct and does not change it.
type Config struct {
	// Hostname is the name or address by which other nodes reach this one, without
	// a port; not "0.0.0.0". Default "127.0.0.1", which only nodes of the same
	// machine can reach.
	Hostname string
	// BindAddress is the address to listen on. Default: what Hostname
	// resolves to. Set it (perhaps to "0.0.0.0") where Hostname is not an
	// address of this machine.
	BindAddress string
	// CopyCatPort is the TCP port for other nodes; GossipPort the UDP and TCP
	// port of gossip. DefaultConfig sets 11983 and 12983. 0 takes a free one
	// (below the range of outgoing connections), which the data directory keeps
	// for restarts; another one if it is taken by then. Status tells which.
	CopyCatPort int
	GossipPort  int
	// CopyCatDataDir holds everything that must survive: the node's identity,
	// its log, its snapshots. It is made if it does not exist, and belongs to
	// one node: moved to another machine, the node moves; copied, it breaks.
	// A relative path counts from the working directory at the start. Default
	// "./copy-cat-db/".
	CopyCatDataDir string
	// PeersToContact are gossip addresses (host:port) of other nodes; one that
	// answers is enough. An element may hold several, separated by spaces. A
	// node without peers (empty elements are none) starts a new cluster, unless its
	// data directory knows one already. That the node itself is among them does no
	// harm, but it is no answer either.
	PeersToContact []string
	// Bootstrap lets a node whose peers do not answer within JoinTimeout start
	// a cluster. Set it on one node only: two that do so at the same time make
	// two clusters, which refuse each other.
	Bootstrap bool
	// JoinTimeout is how long NewCopyCat waits for a peer, and a subscription
	// for the birth of a structure. Default 30 s.
	JoinTimeout time.Duration

	// DataCenter and Rack say where the node stands; replicas are spread over
	// data centers first, then over racks. At most 64 bytes of text, compared byte
	// by byte; they may change from one start to the next. Default "default".
	DataCenter string
	Rack       string
	// Capacity is this node's weight when replicas are placed. Default 1.
	Capacity uint32
	// Profile picks the time-outs of gossip. Default LAN.
	Profile Profile

	// ReplaceAfter is how long a node must be gone, by gossip and by raft,
	// before its replicas are replaced by others elsewhere. Longer than a restart
	// takes. Default one minute.
	ReplaceAfter time.Duration
	// SnapshotBandwidth bounds the bytes of snapshots that this node sends in a
	// second, those that it receives, and, while changes are written, those that
	// it makes, so that they leave room for changes. The consumer that makes a snapshot
	// waits until it is stored: 16 s for 1 GB at the default of 64 MiB, which
	// is half of a link of 1 Gbit/s.
	SnapshotBandwidth int64

	// A snapshot of a structure is due after that many commits, or that many
	// bytes of them, whichever comes first. They are stored with a structure
	// when it is created, and do not change then. Defaults 100,000 and 64 MiB.
	SnapshotEntries uint64
	SnapshotBytes   uint64
	// MaxProposalBytes bounds one proposal. Default 8 MiB, at most 32 MiB.
	MaxProposalBytes int
	// WindowBytes bounds the proposals of one subscription that wait for their
	// fate; above it the propose channel blocks. It covers bandwidth times
	// delay: 32 MiB at 100 ms is 320 MB/s. Default 32 MiB.
	WindowBytes int64
	// ProposalTimeout gives up proposals that are not committed after that
	// long: they are voided, so that it becomes known that they never will be,
	// and come back as ErrProposalExpired. What was sent to other nodes comes back
	// only once there is a quorum: before that, nobody can know. Default 0: never.
	ProposalTimeout time.Duration

	// ClusterKey is shared by all nodes of a cluster: 16, 24 or 32 random
	// bytes, or none. It encrypts gossip and has nodes prove to one another that they
	// belong. Without it, whoever reaches the ports can join.
	ClusterKey []byte
	// TLS, if set, encrypts the traffic between nodes, but not gossip (see
	// ClusterKey). It serves both sides: it needs a certificate, RootCAs to check
	// that of the node connected to (for its Hostname, unless ServerName is set), and
	// ClientCAs with ClientAuth to check that of the node that connects. It is
	// cloned. All nodes of a cluster have it, or none.
	TLS *tls.Config

	// Logger takes what an operator should know. Default: nothing is logged.
	Logger *slog.Logger
}

// DefaultConfig returns the published defaults.
func DefaultConfig() *Config {
	return &Config{
		Hostname:       defaultHostname,
		CopyCatPort:    11983,
		GossipPort:     12983,
		CopyCatDataDir: defaultDataDir,
		DataCenter:     defaultPlace,
		Rack:           defaultPlace,
	}
}

const (
	defaultHostname    = "127.0.0.1"
	defaultDataDir     = "./copy-cat-db/"
	defaultPlace       = "default"
	maxProposalCeiling = 32 << 20
)

// withDefaults returns an independent copy with the defaults filled in.
func (c *Config) withDefaults() *Config {
	d := *c
	setDefault(&d.Hostname, defaultHostname)
	setDefault(&d.CopyCatDataDir, defaultDataDir)
	setDefault(&d.JoinTimeout, 30*time.Second)
	setDefault(&d.DataCenter, defaultPlace)
	setDefault(&d.Rack, defaultPlace)
	setDefault(&d.Capacity, 1)
	setDefault(&d.ReplaceAfter, time.Minute)
	setDefault(&d.SnapshotBandwidth, 64<<20)
	setDefault(&d.SnapshotEntries, 100_000)
	setDefault(&d.SnapshotBytes, 64<<20)
	setDefault(&d.MaxProposalBytes, 8<<20)
	setDefault(&d.WindowBytes, 32<<20)
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	d.ClusterKey = slices.Clone(c.ClusterKey)
	d.PeersToContact = nil
	for _, p := range c.PeersToContact {
		d.PeersToContact = append(d.PeersToContact, strings.Fields(p)...)
	}
	return &d
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// validate reports every fault at once. Defaults are filled in.
func (c *Config) validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(validPort(c.CopyCatPort), "CopyCatPort %d is not a port", c.CopyCatPort)
	check(validPort(c.GossipPort), "GossipPort %d is not a port", c.GossipPort)
	check(c.CopyCatPort == 0 || c.CopyCatPort != c.GossipPort, "CopyCatPort and GossipPort are both %d", c.CopyCatPort)
	check(c.JoinTimeout > 0, "JoinTimeout %s is not positive", c.JoinTimeout)
	check(c.ReplaceAfter > 0, "ReplaceAfter %s is not positive", c.ReplaceAfter)
	check(c.SnapshotBandwidth > 0, "SnapshotBandwidth %d is not positive", c.SnapshotBandwidth)
	check(c.ProposalTimeout >= 0, "ProposalTimeout %s is negative", c.ProposalTimeout)
	check(c.MaxProposalBytes > 0 && c.MaxProposalBytes <= maxProposalCeiling, "MaxProposalBytes %d is not between 1 and %d", c.MaxProposalBytes, maxProposalCeiling)
	check(c.WindowBytes > 0, "WindowBytes %d is not positive", c.WindowBytes)
	check(len(c.Hostname) <= maxHostname, "Hostname has %d bytes, at most %d", len(c.Hostname), maxHostname)
	ip := net.ParseIP(c.Hostname)
	check(ip != nil || !strings.Contains(c.Hostname, ":"), "Hostname %q is no IP address, and no name: it goes without a port", c.Hostname)
	check(ip == nil || !ip.IsUnspecified(), "Hostname %s is no address that other nodes can reach: it is for BindAddress", c.Hostname)
	check(isPlace(c.DataCenter), "DataCenter %q: %s", c.DataCenter, placeRule)
	check(isPlace(c.Rack), "Rack %q: %s", c.Rack, placeRule)
	check(c.Profile <= Local, "Profile %d is not known", c.Profile)
	check(c.BindAddress == "" || net.ParseIP(c.BindAddress) != nil, "BindAddress %q is not an IP address", c.BindAddress)
	check(c.TLS == nil || len(c.TLS.Certificates) > 0 || c.TLS.GetCertificate != nil || c.TLS.GetConfigForClient != nil,
		"TLS has no certificate: it serves both sides, and other nodes connect to this one")
	switch len(c.ClusterKey) {
	case 0, 16, 24, 32:
	default:
		check(false, "ClusterKey has %d bytes, not 16, 24 or 32", len(c.ClusterKey))
	}
	for _, p := range c.PeersToContact {
		host, port, err := net.SplitHostPort(p)
		n, perr := strconv.Atoi(port)
		check(err == nil && perr == nil && host != "" && n > 0 && validPort(n), "PeersToContact: %q is not host:port", p)
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrConfig, errors.Join(faults...))
}

// Bounds of what gossip tells of a node.
const (
	maxHostname = 253 // the longest DNS name
	maxPlace    = 64
	placeRule   = "must be text of at most 64 bytes, without control characters"
)

// isPlace reports whether a name can stand for a data center or a rack. A line
// feed that came along from a file would make two data centers of one.
func isPlace(name string) bool {
	return len(name) <= maxPlace && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

func validPort(p int) bool { return p >= 0 && p <= 65535 }
