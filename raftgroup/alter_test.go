package raftgroup

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/pb/grouppb"
)

func changeRecord(t testing.TB, c OptionsChange) []byte {
	t.Helper()
	return record(t, KindOptions, c.encode([16]byte{7}))
}

// Two changes of different options do not undo each other, and one that makes
// no sense changes nothing on any replica.
func TestOptionsChange(t *testing.T) {
	t.Parallel()
	s, log := newTestState(), newMemLog()
	apply := func(c OptionsChange) outcome { t.Helper(); return mustApply(t, s, log.add(changeRecord(t, c))) }
	want := s.options
	if o := apply(OptionsChange{Options: Options{Voters: 5}, Fields: []Option{OptionVoters}}); !o.ok || o.nonce != [16]byte{7} {
		t.Fatalf("voters: %+v", o)
	}
	want.Voters = 5
	pinned := OptionsChange{Options: Options{PinnedDataCenters: []string{"a", "b"}, PreferredDataCenter: "b"}, Fields: []Option{OptionPinnedDataCenters, OptionPreferredDataCenter}}
	if o := apply(pinned); !o.ok {
		t.Fatalf("pinned: %+v", o)
	}
	want.PinnedDataCenters, want.PreferredDataCenter = []string{"a", "b"}, "b"
	if o := apply(OptionsChange{Options: Options{PreferredDataCenter: "elsewhere"}, Fields: []Option{OptionPreferredDataCenter}}); o.ok {
		t.Fatal("a leader in a data center where no replica may be")
	}
	if !reflect.DeepEqual(s.options, want) {
		t.Fatalf("options %+v, want %+v", s.options, want)
	}
	back, err := decodeState(s.group, []byte(encoded(t, s)))
	if err != nil || !reflect.DeepEqual(back.options, want) {
		t.Fatalf("after a snapshot: %+v, %v", back.options, err)
	}
	// Back to no pinning.
	if o := apply(OptionsChange{Fields: []Option{OptionPinnedDataCenters, OptionLearnersPerDataCenter}, Options: Options{LearnersPerDataCenter: 2}}); !o.ok || s.options.PinnedDataCenters != nil || s.options.LearnersPerDataCenter != 2 {
		t.Fatalf("%+v, options %+v", o, s.options)
	}
	mustApply(t, s, log.add(record(t, KindDeleted, &grouppb.Deleted{})))
	if o := apply(OptionsChange{Options: Options{Voters: 3}, Fields: []Option{OptionVoters}}); o.ok {
		t.Fatal("options of what was deleted")
	}
}

// An option of a newer version stops this one, rather than deciding otherwise.
func TestOptionsChangeOfANewerVersion(t *testing.T) {
	t.Parallel()
	s, log := newTestState(), newMemLog()
	data := changeRecord(t, OptionsChange{Fields: []Option{lastOption + 1}})
	if _, err := s.apply(log.add(data)); !errors.Is(err, ErrNewerFormat) {
		t.Fatalf("%v, want ErrNewerFormat", err)
	}
}

func TestOptionsCheck(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{
		{}, {Voters: 1}, {Voters: 9, DataCenters: 9}, {PinnedDataCenters: []string{"a"}, DataCenters: 1},
		{PinnedDataCenters: []string{"a", "b"}, PreferredDataCenter: "b", LearnersPerDataCenter: 16},
	} {
		if err := o.Check(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, o := range []Options{
		{Voters: 2}, {Voters: 11}, {DataCenters: 4}, {LearnersPerDataCenter: 17}, {PinnedDataCenters: []string{"a", "a"}},
		{PinnedDataCenters: []string{""}}, {PinnedDataCenters: []string{strings.Repeat("x", 65)}},
		{PinnedDataCenters: []string{"a"}, DataCenters: 2}, {PinnedDataCenters: []string{"a"}, PreferredDataCenter: "b"},
		{PreferredDataCenter: strings.Repeat("x", 65)}, {PinnedDataCenters: strings.Split(strings.Repeat("x ", 33), " ")},
	} {
		if err := o.Check(); !errors.Is(err, ErrInvalidOptions) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
