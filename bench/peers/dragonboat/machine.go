package main

import (
	"io"

	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/copycat-replication/copycat/bench/internal/load"
)

// machine is a state machine that tells a consumer what is applied.
type machine struct{ consumer *load.Consumer }

func (m *machine) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	for i := range entries {
		m.consumer.Applied(entries[i].Cmd)
	}
	return entries, nil
}

func (m *machine) Lookup(any) (any, error) { return nil, load.ErrUnsupported }

func (m *machine) PrepareSnapshot() (any, error) { return m.consumer.Snapshot(), nil }

func (m *machine) SaveSnapshot(prepared any, to io.Writer, _ statemachine.ISnapshotFileCollection, _ <-chan struct{}) error {
	data, _ := prepared.([]byte)
	_, err := to.Write(data)
	return err
}

func (m *machine) RecoverFromSnapshot(from io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	data, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	return m.consumer.Restore(data)
}

func (m *machine) Close() error { return nil }
