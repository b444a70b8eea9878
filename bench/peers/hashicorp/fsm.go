package main

import (
	"io"

	"github.com/hashicorp/raft"

	"github.com/copycat-replication/copycat/bench/internal/load"
)

// machine is a raft.BatchingFSM that tells a consumer what is applied. Raft
// calls all of it but Persist from one goroutine.
type machine struct {
	consumer *load.Consumer
	results  []any // of ApplyBatch: all nil
}

func (m *machine) Apply(log *raft.Log) any {
	m.consumer.Applied(log.Data)
	return nil
}

func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	for _, log := range logs {
		if log.Type == raft.LogCommand {
			m.consumer.Applied(log.Data)
		}
	}
	if len(m.results) < len(logs) {
		m.results = make([]any, len(logs))
	}
	return m.results[:len(logs)]
}

func (m *machine) Snapshot() (raft.FSMSnapshot, error) { return state(m.consumer.Snapshot()), nil }

func (m *machine) Restore(from io.ReadCloser) error {
	data, err := io.ReadAll(from)
	if cerr := from.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return m.consumer.Restore(data)
}

type state []byte

func (s state) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		_ = sink.Cancel() // the first error tells more
		return err
	}
	return sink.Close()
}

func (state) Release() {}
