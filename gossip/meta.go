package gossip

import (
	"fmt"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/gossippb"
	"github.com/hashicorp/memberlist"
)

// Bounds of the texts in the metadata. With the other fields at their longest
// they fill 466 of memberlist's 512 bytes, which panics beyond that.
const (
	maxHost     = 253 // the longest DNS name
	maxLocation = 64  // data center, rack
)

// identity is what a node's memberlist metadata says.
type identity struct {
	cluster       id.Cluster // zero: looking for one
	incarnation   uint64
	transportPort int
	host          string // for Node.Transport; empty: the gossip IP
	dataCenter    string
	rack          string
	capacity      uint32
	version       uint32
	leaving       bool
}

func (m identity) encode() ([]byte, error) {
	w := gossippb.Identity{
		Cluster: clusterBytes(m.cluster), Incarnation: m.incarnation, TransportPort: uint32(m.transportPort), Host: m.host,
		DataCenter: m.dataCenter, Rack: m.rack, Capacity: m.capacity, Version: m.version, Leaving: m.leaving,
	}
	b := make([]byte, 1+w.Size())
	b[0] = formatVersion
	if _, err := w.MarshalToSizedBuffer(b[1:]); err != nil {
		return nil, fmt.Errorf("gossip metadata: %w", err)
	}
	if len(b) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("%w: metadata of %d bytes, at most %d", ErrConfig, len(b), memberlist.MetaMaxSize)
	}
	return b, nil
}

func decodeIdentity(b []byte) (identity, error) {
	switch {
	case len(b) == 0 || len(b) > memberlist.MetaMaxSize:
		return identity{}, fmt.Errorf("%w: metadata of %d bytes", ErrMalformed, len(b))
	case b[0] != formatVersion:
		return identity{}, fmt.Errorf("%w: metadata of version %d, this node knows %d", ErrVersion, b[0], formatVersion)
	}
	var w gossippb.Identity
	if err := w.Unmarshal(b[1:]); err != nil {
		return identity{}, fmt.Errorf("%w: metadata: %w", ErrMalformed, err)
	}
	cluster, err := clusterFrom(w.Cluster)
	if err != nil {
		return identity{}, fmt.Errorf("%w: metadata: %w", ErrMalformed, err)
	}
	if w.TransportPort > 65535 || len(w.Host) > maxHost || len(w.DataCenter) > maxLocation || len(w.Rack) > maxLocation {
		return identity{}, fmt.Errorf("%w: metadata out of bounds", ErrMalformed)
	}
	return identity{
		cluster: cluster, incarnation: w.Incarnation, transportPort: int(w.TransportPort), host: w.Host,
		dataCenter: w.DataCenter, rack: w.Rack, capacity: w.Capacity, version: w.Version, leaving: w.Leaving,
	}, nil
}
