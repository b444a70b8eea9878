// Package id holds the names of things: nodes, clusters, data structures,
// raft groups and replicas. Every other package may import it; it imports
// none of them.
//
// Node, Cluster and Structure are ULIDs (https://github.com/ulid/spec):
// 128 bits, printed as 26 characters of Crockford's base 32. They are values,
// comparable, usable as map keys, and their zero value means "none".
package id

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// ErrMalformed is returned, wrapped with the offending text, when a text or a
// byte slice is no ULID.
var ErrMalformed = errors.New("malformed ID")

// Structure names a data structure: what a user subscribes to.
type Structure ulid.ULID

// Node names a node: made once, kept in the node's data directory, never used
// again by another directory.
type Node ulid.ULID

// Cluster names a cluster: made by the node that started it.
type Cluster ulid.ULID

// Replica names one member of one raft group. It is never used twice in a
// group, and never zero.
type Replica uint64

// Incarnation tells one life of a data structure from another. Birth is the
// index in the catalog of the commit that created the group; Recovery tells, in
// its upper 16 bits, how often an operator rebuilt it from a survivor after its
// quorum was lost, and in the lower ones has a random number, so that rebuilding
// it from two survivors by mistake makes two incarnations of which one gives way.
// A later incarnation compares greater.
type Incarnation struct {
	Birth    uint64
	Recovery uint32
}

// Group names a raft group: one incarnation of one data structure.
type Group struct {
	Structure   Structure
	Incarnation Incarnation
}

// Less reports whether a is an older life than b.
func (a Incarnation) Less(b Incarnation) bool {
	if a.Birth != b.Birth {
		return a.Birth < b.Birth
	}
	return a.Recovery < b.Recovery
}

// String prints the birth, and behind it what there is of a recovery number:
// "17", or "17.1-a3f2" after the first recovery.
func (a Incarnation) String() string {
	switch {
	case a.Recovery == 0:
		return fmt.Sprintf("%d", a.Birth)
	case a.Recovery < 1<<16:
		return fmt.Sprintf("%d.%d", a.Birth, a.Recovery)
	}
	return fmt.Sprintf("%d.%d-%04x", a.Birth, a.Recovery>>16, a.Recovery&0xffff)
}

// ParseIncarnation reads what String prints.
func ParseIncarnation(text string) (Incarnation, error) {
	fail := func(err error) (Incarnation, error) {
		return Incarnation{}, fmt.Errorf("incarnation %q: %w", text, err)
	}
	birth, recovery, rebuilt := strings.Cut(text, ".")
	a := Incarnation{}
	var err error
	if a.Birth, err = strconv.ParseUint(birth, 10, 64); err != nil || !rebuilt {
		if err != nil {
			return fail(err)
		}
		return a, nil
	}
	count, tag, tagged := strings.Cut(recovery, "-")
	n, err := strconv.ParseUint(count, 10, 16)
	if err != nil {
		return fail(err)
	}
	if a.Recovery = uint32(n); tagged {
		t, err := strconv.ParseUint(tag, 16, 16)
		if err != nil {
			return fail(err)
		}
		a.Recovery = uint32(n)<<16 | uint32(t)
	}
	return a, nil
}

// String prints "structure@incarnation".
func (g Group) String() string { return g.Structure.String() + "@" + g.Incarnation.String() }

// String returns the 26 characters of the ULID.
func (s Structure) String() string { return ulid.ULID(s).String() }

// String returns the 26 characters of the ULID.
func (n Node) String() string { return ulid.ULID(n).String() }

// String returns the 26 characters of the ULID.
func (c Cluster) String() string { return ulid.ULID(c).String() }

// IsZero reports whether s names nothing.
func (s Structure) IsZero() bool { return s == Structure{} }

// IsZero reports whether n names nothing.
func (n Node) IsZero() bool { return n == Node{} }

// IsZero reports whether c names nothing.
func (c Cluster) IsZero() bool { return c == Cluster{} }

// ParseStructure reads the 26 characters of a ULID, strictly: any character
// outside the alphabet and any wrong length is ErrMalformed. Lower case is read
// like upper case.
func ParseStructure(s string) (Structure, error) {
	u, err := ulid.ParseStrict(s)
	if err != nil {
		return Structure{}, fmt.Errorf("%w: data structure ID %q: %w", ErrMalformed, s, err)
	}
	return Structure(u), nil
}

// MarshalText implements encoding.TextMarshaler: the 26 characters, so that an ID can
// stand in JSON, also as the key of a map.
func (s Structure) MarshalText() ([]byte, error) { return ulid.ULID(s).MarshalText() }

// UnmarshalText implements encoding.TextUnmarshaler, as ParseStructure reads.
func (s *Structure) UnmarshalText(text []byte) error {
	read, err := ParseStructure(string(text))
	if err == nil {
		*s = read
	}
	return err
}

// ParseNode reads the 26 characters of a ULID, strictly.
func ParseNode(s string) (Node, error) {
	u, err := ulid.ParseStrict(s)
	if err != nil {
		return Node{}, fmt.Errorf("%w: node ID %q: %w", ErrMalformed, s, err)
	}
	return Node(u), nil
}

// ParseCluster reads the 26 characters of a ULID, strictly.
func ParseCluster(s string) (Cluster, error) {
	u, err := ulid.ParseStrict(s)
	if err != nil {
		return Cluster{}, fmt.Errorf("%w: cluster ID %q: %w", ErrMalformed, s, err)
	}
	return Cluster(u), nil
}

// NodeFromBytes reads the 16 bytes of a node ID, as the wire and the disk have them.
func NodeFromBytes(b []byte) (Node, error) {
	var n Node
	if len(b) != len(n) {
		return Node{}, fmt.Errorf("%w: node ID of %d bytes", ErrMalformed, len(b))
	}
	copy(n[:], b)
	return n, nil
}

// ClusterFromBytes reads the 16 bytes of a cluster ID.
func ClusterFromBytes(b []byte) (Cluster, error) {
	var c Cluster
	if len(b) != len(c) {
		return Cluster{}, fmt.Errorf("%w: cluster ID of %d bytes", ErrMalformed, len(b))
	}
	copy(c[:], b)
	return c, nil
}

// StructureFromBytes reads the 16 bytes of a data structure ID.
func StructureFromBytes(b []byte) (Structure, error) {
	var s Structure
	if len(b) != len(s) {
		return Structure{}, fmt.Errorf("%w: data structure ID of %d bytes", ErrMalformed, len(b))
	}
	copy(s[:], b)
	return s, nil
}

// NewStructure makes a new ID from a time and 10 bytes of a source of randomness,
// whose error it returns.
func NewStructure(now time.Time, entropy io.Reader) (Structure, error) {
	u, err := ulid.New(ulid.Timestamp(now), entropy)
	return Structure(u), err
}

// NewNode makes a new ID from a time and 10 bytes of a source of randomness,
// whose error it returns.
func NewNode(now time.Time, entropy io.Reader) (Node, error) {
	u, err := ulid.New(ulid.Timestamp(now), entropy)
	return Node(u), err
}

// NewCluster makes a new ID from a time and 10 bytes of a source of randomness,
// whose error it returns.
func NewCluster(now time.Time, entropy io.Reader) (Cluster, error) {
	u, err := ulid.New(ulid.Timestamp(now), entropy)
	return Cluster(u), err
}
