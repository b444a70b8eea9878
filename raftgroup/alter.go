package raftgroup

import (
	"errors"
	"fmt"
	"slices"

	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/placement"
)

// ErrInvalidOptions says that options contradict one another, or are out of bounds.
var ErrInvalidOptions = errors.New("invalid options of a data structure")

// Bounds of options. They are part of the log's meaning: every replica decides by them.
const (
	maxVoters         = 9  // each commit waits for a majority of them
	maxLearnersPerDC  = 16 // each gets every entry
	maxPinned         = 32
	maxDataCenterName = 64
)

// Option names a field of Options in an OptionsChange. The numbers are those
// of the message's fields, and part of the log's format.
type Option uint32

// The options that can be changed.
const (
	OptionVoters                Option = 1
	OptionDataCenters           Option = 2
	OptionMaxSessions           Option = 3
	OptionSnapshotEntries       Option = 4
	OptionSnapshotBytes         Option = 5
	OptionLearnersPerDataCenter Option = 6
	OptionPinnedDataCenters     Option = 7
	OptionPreferredDataCenter   Option = 8

	lastOption = OptionPreferredDataCenter
)

// OptionsChange sets some options and keeps the others, so that two changes of
// different options at the same moment do not undo each other.
type OptionsChange struct {
	Options Options
	Fields  []Option // those of Options that are set
}

// Apply returns the options after the change. The caller checks them.
func (c OptionsChange) Apply(to Options) Options {
	for _, f := range c.Fields {
		switch f {
		case OptionVoters:
			to.Voters = c.Options.Voters
		case OptionDataCenters:
			to.DataCenters = c.Options.DataCenters
		case OptionMaxSessions:
			to.MaxSessions = c.Options.MaxSessions
		case OptionSnapshotEntries:
			to.SnapshotEntries = c.Options.SnapshotEntries
		case OptionSnapshotBytes:
			to.SnapshotBytes = c.Options.SnapshotBytes
		case OptionLearnersPerDataCenter:
			to.LearnersPerDataCenter = c.Options.LearnersPerDataCenter
		case OptionPinnedDataCenters:
			to.PinnedDataCenters = c.Options.PinnedDataCenters
		case OptionPreferredDataCenter:
			to.PreferredDataCenter = c.Options.PreferredDataCenter
		}
	}
	return to.withDefaults()
}

// Check reports every fault of the options at once; zeros count as the defaults.
func (o Options) Check() error {
	o = o.withDefaults()
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(o.Voters%2 == 1 && o.Voters <= maxVoters, "%d voters: must be odd, and %d at most", o.Voters, maxVoters)
	check(o.DataCenters <= o.Voters, "%d data centers for %d voters", o.DataCenters, o.Voters)
	check(o.LearnersPerDataCenter <= maxLearnersPerDC, "%d learners per data center: %d at most", o.LearnersPerDataCenter, maxLearnersPerDC)
	check(len(o.PinnedDataCenters) <= maxPinned, "%d pinned data centers: %d at most", len(o.PinnedDataCenters), maxPinned)
	check(len(o.PinnedDataCenters) == 0 || int(o.DataCenters) <= len(o.PinnedDataCenters), "%d data centers, and only %d are pinned", o.DataCenters, len(o.PinnedDataCenters))
	for i, dc := range o.PinnedDataCenters {
		check(dc != "" && len(dc) <= maxDataCenterName, "pinned data center %q: its name has 1 to %d bytes", dc, maxDataCenterName)
		check(!slices.Contains(o.PinnedDataCenters[:i], dc), "pinned data center %q is there twice", dc)
	}
	p := o.PreferredDataCenter
	check(len(p) <= maxDataCenterName, "preferred data center %q: its name has %d bytes at most", p, maxDataCenterName)
	check(p == "" || len(o.PinnedDataCenters) == 0 || slices.Contains(o.PinnedDataCenters, p), "preferred data center %q is none of the pinned ones", p)
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInvalidOptions, errors.Join(faults...))
}

// Placement is what placement is asked with.
func (o Options) Placement() placement.Options {
	return placement.Options{
		Voters: int(o.Voters), DataCenters: int(o.DataCenters), LearnersPerDataCenter: int(o.LearnersPerDataCenter),
		PinnedDataCenters: o.PinnedDataCenters, PreferredDataCenter: o.PreferredDataCenter,
	}
}

func (c OptionsChange) encode(nonce [16]byte) *grouppb.OptionsChange {
	m := &grouppb.OptionsChange{Nonce: nonce[:], Options: c.Options.Encode()}
	for _, f := range c.Fields {
		m.Fields = append(m.Fields, uint32(f))
	}
	return m
}

// decodeChange refuses a field that this binary does not know: a newer one
// would decide otherwise.
func decodeChange(m *grouppb.OptionsChange) (OptionsChange, error) {
	if m == nil || m.Options == nil {
		return OptionsChange{}, fmt.Errorf("%w: a change of options without any", ErrMalformedEntry)
	}
	c := OptionsChange{Options: DecodeOptions(m.Options)}
	for _, f := range m.Fields {
		if f == 0 || f > uint32(lastOption) {
			return OptionsChange{}, fmt.Errorf("%w: option %d", ErrNewerFormat, f)
		}
		c.Fields = append(c.Fields, Option(f))
	}
	return c, nil
}

// applyOptions changes the options, unless they would not make sense any more.
func (s *state) applyOptions(data []byte, o *outcome) error {
	var m grouppb.OptionsChange
	if err := decodeRecord(data, &m); err != nil {
		return err
	}
	c, err := decodeChange(&m)
	if err != nil {
		return err
	}
	copy(o.nonce[:], m.Nonce)
	if next := c.Apply(s.options); !s.deleted && next.Check() == nil {
		s.options, o.ok = next, true
	}
	return nil
}

// applyDeleted ends the structure: nothing after it counts.
func (s *state) applyDeleted(data []byte, o *outcome) error {
	var m grouppb.Deleted
	if err := decodeRecord(data, &m); err != nil {
		return err
	}
	copy(o.nonce[:], m.Nonce)
	o.ok, s.deleted = !s.deleted, true
	return nil
}
