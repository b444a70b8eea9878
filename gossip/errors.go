package gossip

import "errors"

// Errors of this package, wrapped with what, where and which cluster.
var (
	// ErrConfig says that a Config cannot work; the text names every fault.
	ErrConfig = errors.New("invalid gossip configuration")
	// ErrAddressInUse says that another socket holds the gossip address.
	ErrAddressInUse = errors.New("address already in use")
	// ErrNoAddress says that no IP address to advertise could be found: the
	// advertised host does not resolve, or the machine has no usable address.
	ErrNoAddress = errors.New("no address to advertise")
	// ErrNoCluster says that none of the given peers is a member of a cluster
	// that answers.
	ErrNoCluster = errors.New("no cluster found")
	// ErrWrongCluster says that a peer belongs to another cluster; the text
	// names both.
	ErrWrongCluster = errors.New("peer belongs to another cluster")
	// ErrClosed says that this Gossip is closed or was left.
	ErrClosed = errors.New("gossip is closed")
	// ErrVersion says that a message or a node speaks a newer major version of
	// the gossip format than this one.
	ErrVersion = errors.New("unknown version of the gossip format")
	// ErrMalformed says that bytes from the network are no message of ours.
	ErrMalformed = errors.New("malformed gossip message")
	// ErrTooMany says that a bound on nodes or replicas is reached.
	ErrTooMany = errors.New("too many nodes or replicas for the directory")
)
