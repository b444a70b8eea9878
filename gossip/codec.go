package gossip

import (
	"fmt"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/gossippb"
)

// Every message starts with the major version of the format and its kind; the
// protobuf message of that kind follows. Minor changes are new protobuf fields,
// which older readers skip.
const (
	formatVersion = 1

	kindHello byte = 1 // user state of a push/pull
	kindDelta byte = 2 // broadcast packet
	kindWant  byte = 3 // request, over a stream
	kindPage  byte = 4 // answer, over a stream
)

// Bounds on messages. A decoded protobuf message takes up to about 40 times its
// encoded size if it is made to, so the size is checked before decoding.
const (
	maxDeltaBytes   = 1024      // what we send in one packet, with room for memberlist's own
	maxPageBytes    = 128 << 10 // what we send in one page
	maxAnswerBytes  = 512 << 10 // what we answer to one request
	maxMessageBytes = 256 << 10 // what we accept of any kind
	maxSinceEntries = 4096      // versions in one request

	// updateOverhead and the sizes of changes are upper bounds of their
	// encoded sizes.
	updateOverhead  = 72
	messageOverhead = 48
)

// size is an upper bound of the encoded size of a change.
func (c *change) size() int {
	return 2 + 18 + 3 + varintSize(c.group.Incarnation.Birth) + varintSize(uint64(c.group.Incarnation.Recovery)) +
		1 + varintSize(uint64(c.id)) + 3 + 2 + 1 + varintSize(c.sequence)
}

func (u *update) size() int {
	size := updateOverhead
	for i := range u.changes {
		size += u.changes[i].size()
	}
	return size
}

func varintSize(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

type marshaler interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}

// encode puts the two leading bytes before m.
func encode(kind byte, m marshaler) ([]byte, error) {
	size := m.Size()
	b := make([]byte, 2+size)
	b[0], b[1] = formatVersion, kind
	if _, err := m.MarshalToSizedBuffer(b[2:]); err != nil {
		return nil, fmt.Errorf("gossip message of kind %d: %w", kind, err)
	}
	return b, nil
}

// open checks the leading bytes and the size, and returns the kind and the rest.
func open(b []byte) (byte, []byte, error) {
	switch {
	case len(b) < 2:
		return 0, nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	case b[0] != formatVersion:
		return 0, nil, fmt.Errorf("%w: message of version %d, this node knows %d", ErrVersion, b[0], formatVersion)
	case len(b) > maxMessageBytes:
		return 0, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), maxMessageBytes)
	}
	return b[1], b[2:], nil
}

// sender is what every message but a delta says of who sent it.
type sender struct {
	cluster id.Cluster
	node    id.Node
}

type hello struct {
	sender
	incarnation uint64
	vector      []version
}

type page struct {
	sender
	updates []update
	last    bool
}

func clusterBytes(c id.Cluster) []byte {
	if c.IsZero() {
		return nil
	}
	return c[:]
}

func clusterFrom(b []byte) (id.Cluster, error) {
	if len(b) == 0 {
		return id.Cluster{}, nil
	}
	return id.ClusterFromBytes(b)
}

func senderFrom(cluster, node []byte) (sender, error) {
	c, err := clusterFrom(cluster)
	if err != nil {
		return sender{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	n, err := id.NodeFromBytes(node)
	if err != nil || n.IsZero() {
		return sender{}, fmt.Errorf("%w: sender of %d bytes", ErrMalformed, len(node))
	}
	return sender{c, n}, nil
}

func encodeHello(h hello) ([]byte, error) {
	return encode(kindHello, &gossippb.Hello{
		Cluster: clusterBytes(h.cluster), Node: h.node[:], Incarnation: h.incarnation, Vector: versionsToWire(h.vector),
	})
}

func decodeHello(b []byte) (hello, error) {
	var m gossippb.Hello
	if err := m.Unmarshal(b); err != nil {
		return hello{}, fmt.Errorf("%w: hello: %w", ErrMalformed, err)
	}
	from, err := senderFrom(m.Cluster, m.Node)
	if err != nil {
		return hello{}, err
	}
	vector, err := versionsFromWire(m.Vector)
	return hello{from, m.Incarnation, vector}, err
}

func encodeDelta(cluster id.Cluster, u *update) ([]byte, error) {
	return encode(kindDelta, &gossippb.Delta{Cluster: clusterBytes(cluster), Update: updateToWire(u)})
}

func decodeDelta(b []byte) (id.Cluster, update, error) {
	var m gossippb.Delta
	if err := m.Unmarshal(b); err != nil {
		return id.Cluster{}, update{}, fmt.Errorf("%w: delta: %w", ErrMalformed, err)
	}
	cluster, err := clusterFrom(m.Cluster)
	if err != nil {
		return id.Cluster{}, update{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	u, err := updateFromWire(m.Update)
	return cluster, u, err
}

func encodeWant(from sender, since []version) ([]byte, error) {
	return encode(kindWant, &gossippb.Want{Cluster: clusterBytes(from.cluster), Node: from.node[:], Since: versionsToWire(since)})
}

func decodeWant(b []byte) (sender, []version, error) {
	var m gossippb.Want
	if err := m.Unmarshal(b); err != nil {
		return sender{}, nil, fmt.Errorf("%w: want: %w", ErrMalformed, err)
	}
	from, err := senderFrom(m.Cluster, m.Node)
	if err != nil {
		return sender{}, nil, err
	}
	if len(m.Since) > maxSinceEntries {
		return sender{}, nil, fmt.Errorf("%w: want of %d nodes", ErrMalformed, len(m.Since))
	}
	since, err := versionsFromWire(m.Since)
	return from, since, err
}

func encodePage(p page) ([]byte, error) {
	m := &gossippb.Page{Cluster: clusterBytes(p.cluster), Node: p.node[:], Last: p.last}
	for i := range p.updates {
		m.Updates = append(m.Updates, updateToWire(&p.updates[i]))
	}
	return encode(kindPage, m)
}

func decodePage(b []byte) (page, error) {
	var m gossippb.Page
	if err := m.Unmarshal(b); err != nil {
		return page{}, fmt.Errorf("%w: page: %w", ErrMalformed, err)
	}
	from, err := senderFrom(m.Cluster, m.Node)
	if err != nil {
		return page{}, err
	}
	p := page{sender: from, last: m.Last, updates: make([]update, 0, len(m.Updates))}
	for _, w := range m.Updates {
		u, err := updateFromWire(w)
		if err != nil {
			return page{}, err
		}
		p.updates = append(p.updates, u)
	}
	return p, nil
}

func versionsToWire(vector []version) []*gossippb.Version {
	wire := make([]*gossippb.Version, len(vector))
	backing := make([]gossippb.Version, len(vector))
	for i := range vector {
		v := &vector[i]
		backing[i] = gossippb.Version{Node: v.node[:], Incarnation: v.incarnation, Generation: v.generation, Sequence: v.sequence}
		wire[i] = &backing[i]
	}
	return wire
}

func versionsFromWire(wire []*gossippb.Version) ([]version, error) {
	vector := make([]version, 0, len(wire))
	for _, w := range wire {
		node, err := id.NodeFromBytes(w.Node)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		vector = append(vector, version{node, epoch{w.Incarnation, w.Generation}, w.Sequence})
	}
	return vector, nil
}

func updateToWire(u *update) *gossippb.Update {
	w := &gossippb.Update{
		Node: u.node[:], Incarnation: u.incarnation, Generation: u.generation, From: u.from, To: u.to, Head: u.head,
		Entries: make([]*gossippb.Entry, len(u.changes)),
	}
	backing := make([]gossippb.Entry, len(u.changes))
	for i := range u.changes {
		c := &u.changes[i]
		backing[i] = gossippb.Entry{
			Structure: c.group.Structure[:], Birth: c.group.Incarnation.Birth, Recovery: c.group.Incarnation.Recovery,
			Replica: uint64(c.id), Role: uint32(c.role), Removed: c.removed, Offset: c.sequence - u.from,
		}
		w.Entries[i] = &backing[i]
	}
	return w
}

// updateFromWire checks what apply relies on: a range that is one, something to
// tell, and changes inside the range by ascending sequence.
func updateFromWire(w *gossippb.Update) (update, error) {
	if w == nil {
		return update{}, fmt.Errorf("%w: no update", ErrMalformed)
	}
	node, err := id.NodeFromBytes(w.Node)
	if err != nil {
		return update{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if w.From > w.To || max(w.To, w.Head) == 0 || uint64(len(w.Entries)) > w.To-w.From {
		return update{}, fmt.Errorf("%w: %d changes in (%d, %d], head %d", ErrMalformed, len(w.Entries), w.From, w.To, w.Head)
	}
	u := update{
		node: node, epoch: epoch{w.Incarnation, w.Generation}, from: w.From, to: w.To, head: w.Head,
		changes: make([]change, 0, len(w.Entries)),
	}
	var last uint64
	for _, e := range w.Entries {
		structure, err := id.StructureFromBytes(e.Structure)
		if err != nil {
			return update{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if e.Offset <= last || e.Offset > w.To-w.From || e.Role > 255 {
			return update{}, fmt.Errorf("%w: change %d after %d in a range of %d, role %d", ErrMalformed, e.Offset, last, w.To-w.From, e.Role)
		}
		last = e.Offset
		u.changes = append(u.changes, change{
			id.Group{Structure: structure, Incarnation: id.Incarnation{Birth: e.Birth, Recovery: e.Recovery}},
			entry{id.Replica(e.Replica), uint8(e.Role), e.Removed, w.From + e.Offset},
		})
	}
	return u, nil
}
