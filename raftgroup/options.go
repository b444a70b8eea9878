package raftgroup

import (
	"fmt"

	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/snapshot"
)

// SnapshotRef is the identity of a snapshot.
type SnapshotRef = snapshot.Ref

// Options are replicated with the group: every replica decides by the same ones.
type Options struct {
	// Voters is the number of voters that the group wishes for: odd. Zero means three.
	Voters uint32
	// DataCenters is the number of data centers that voters are spread over.
	// Zero means as many as there are voters.
	DataCenters uint32
	// LearnersPerDataCenter is how many learners each data center has beside its voters.
	LearnersPerDataCenter uint32
	// PinnedDataCenters, if not empty, are the only ones where replicas may be.
	// The slice is shared and must not be changed.
	PinnedDataCenters []string
	// PreferredDataCenter is where the leader should be. Empty: anywhere.
	PreferredDataCenter string
	// MaxSessions bounds the subscriptions of a structure that may propose at
	// the same time, over all nodes. Zero means 4,096.
	MaxSessions uint32
	// A snapshot is due after that many commits, or payload bytes, whichever
	// comes first. Zero means 100,000 commits and 64 MiB.
	SnapshotEntries uint64
	SnapshotBytes   uint64
}

func (o Options) withDefaults() Options {
	if o.Voters == 0 {
		o.Voters = 3
	}
	if o.MaxSessions == 0 {
		o.MaxSessions = 4096
	}
	if o.SnapshotEntries == 0 {
		o.SnapshotEntries = 100_000
	}
	if o.SnapshotBytes == 0 {
		o.SnapshotBytes = 64 << 20
	}
	return o
}

// Encode makes a message of the options as they are; zeros stay zeros.
func (o Options) Encode() *grouppb.Options {
	return &grouppb.Options{
		Voters: o.Voters, DataCenters: o.DataCenters, MaxSessions: o.MaxSessions,
		SnapshotEntries: o.SnapshotEntries, SnapshotBytes: o.SnapshotBytes,
		LearnersPerDataCenter: o.LearnersPerDataCenter, PinnedDataCenters: o.PinnedDataCenters, PreferredDataCenter: o.PreferredDataCenter,
	}
}

// DecodeOptions reads options as they were encoded; of nil, the zero ones.
func DecodeOptions(m *grouppb.Options) Options {
	if m == nil {
		return Options{}
	}
	return Options{
		Voters: m.Voters, DataCenters: m.DataCenters, MaxSessions: m.MaxSessions,
		SnapshotEntries: m.SnapshotEntries, SnapshotBytes: m.SnapshotBytes,
		LearnersPerDataCenter: m.LearnersPerDataCenter, PinnedDataCenters: m.PinnedDataCenters, PreferredDataCenter: m.PreferredDataCenter,
	}
}

func decodeOptions(m *grouppb.Options) Options { return DecodeOptions(m).withDefaults() }

func encodeRef(r SnapshotRef) *grouppb.SnapshotRef {
	return &grouppb.SnapshotRef{Index: r.Index, Term: r.Term, Commits: r.Commits, Maker: r.Maker, Size_: r.Size, Checksum: r.Checksum[:]}
}

func decodeRef(m *grouppb.SnapshotRef) (SnapshotRef, error) {
	if m == nil {
		return SnapshotRef{}, nil
	}
	r := SnapshotRef{Index: m.Index, Term: m.Term, Commits: m.Commits, Maker: m.Maker, Size: m.Size_}
	if len(m.Checksum) != len(r.Checksum) || m.Size_ < 0 {
		return r, fmt.Errorf("%w: snapshot reference with a checksum of %d bytes", ErrMalformedEntry, len(m.Checksum))
	}
	copy(r.Checksum[:], m.Checksum)
	return r, nil
}
