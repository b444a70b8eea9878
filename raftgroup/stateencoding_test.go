package raftgroup

import (
	"errors"
	"reflect"
	"testing"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

func TestDecodeState(t *testing.T) {
	t.Parallel()
	if _, err := decodeState(id.Group{}, []byte{0xff}); err == nil {
		t.Error("garbage was read")
	}
	if _, err := decodeState(id.Group{}, nil); !errors.Is(err, ErrMalformedEntry) {
		t.Errorf("nothing was read: %v", err)
	}
	newer, err := (&grouppb.State{Version: stateVersion + 1}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeState(id.Group{}, newer); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("newer: %v", err)
	}
	// Every truncation is an error or another state, never a panic.
	full := encoded(t, newTestState())
	for n := range len(full) {
		_, _ = decodeState(id.Group{}, []byte(full[:n]))
	}
}

func TestOptionsEncoding(t *testing.T) {
	t.Parallel()
	if got := decodeOptions(nil); !reflect.DeepEqual(got, Options{}.withDefaults()) {
		t.Errorf("none: %+v", got)
	}
	want := Options{Voters: 5, DataCenters: 2, MaxSessions: 7, SnapshotEntries: 9, SnapshotBytes: 11}
	if got := decodeOptions(want.Encode()); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if _, err := decodeRef(&grouppb.SnapshotRef{Checksum: make([]byte, 31)}); !errors.Is(err, ErrMalformedEntry) {
		t.Errorf("short checksum: %v", err)
	}
	if _, err := decodeRef(&grouppb.SnapshotRef{Checksum: make([]byte, 32), Size_: -1}); !errors.Is(err, ErrMalformedEntry) {
		t.Errorf("negative size: %v", err)
	}
	ref := SnapshotRef{Index: 1, Term: 2, Commits: 3, Maker: 4, Size: 5, Checksum: [32]byte{6}}
	if got, err := decodeRef(encodeRef(ref)); err != nil || got != ref {
		t.Errorf("%+v, %v", got, err)
	}
}
