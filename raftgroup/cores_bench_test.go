package raftgroup

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

func benchItems(n, size int) []item {
	list := make([]item, n)
	for i := range list {
		list[i].payload = make([]byte, size)
	}
	return list
}

func BenchmarkEncodeBatch128x64(b *testing.B) {
	list := benchItems(64, 128)
	b.ReportAllocs()
	b.SetBytes(64 * 128)
	for b.Loop() {
		encodeBatch(nil, 1, 1, 0, list)
	}
}

func BenchmarkApplyBatch128x64(b *testing.B) {
	s, log := newTestState(), newMemLog()
	mustApply(b, s, log.add(openRecord(b, 1, nodeN(1), 1)))
	data := encodeBatch(nil, 1, 1, 0, benchItems(64, 128))
	e := &raftpb.Entry{Term: new(uint64(1)), Index: new(uint64(0)), Type: raftpb.EntryNormal.Enum(), Data: data}
	b.ReportAllocs()
	b.SetBytes(64 * 128)
	for b.Loop() {
		*e.Index = s.index + 1
		s.sessions.live[1].last = 0
		if o := mustApply(b, s, e); o.verdict != verdictCounts {
			b.Fatal(o.verdict)
		}
	}
}

// endless is a log of one batch, again and again.
type endless struct{ list []*raftpb.Entry }

func (l *endless) entries(lo, hi, _ uint64) ([]*raftpb.Entry, error) {
	n := min(hi-lo, uint64(len(l.list)))
	for i := range n {
		*l.list[i].Index = lo + i
	}
	return append([]*raftpb.Entry(nil), l.list[:n]...), nil
}

func BenchmarkCursorNext128x64(b *testing.B) {
	log := newMemLog()
	c := &cursor{state: newTestState()}
	mustApply(b, c.state, log.add(openRecord(b, 1, nodeN(1), 1)))
	data := encodeBatch(nil, 1, 1, 0, benchItems(64, 128))
	l := &endless{}
	for range 100 {
		l.list = append(l.list, &raftpb.Entry{Term: new(uint64(1)), Index: new(uint64(0)), Type: raftpb.EntryNormal.Enum(), Data: data})
	}
	b.ReportAllocs()
	b.SetBytes(64 * 128)
	for b.Loop() {
		c.state.sessions.live[1].last = 0
		d, _, err := c.next(l, 1<<62)
		if err != nil || len(d.payloads) != 64 {
			b.Fatal(err, len(d.payloads))
		}
	}
}

// One batch of 64 through a proposer: add, pack, settle.
func BenchmarkProposerCycle128x64(b *testing.B) {
	p, payload := proposerWith(0, 0), make([]byte, 128)
	settled := 0
	settle := func(settlement) { settled++ }
	b.ReportAllocs()
	b.SetBytes(64 * 128)
	for b.Loop() {
		for range 64 {
			p.add(payload, time.Time{})
		}
		data, n := p.next(nil, maxBatchBytes)
		p.accepted(n, t0)
		batch, err := decodeBatch(data)
		if err != nil {
			b.Fatal(err)
		}
		p.counted(&batch, batch.first, t0, settle)
	}
	if settled != b.N*64 {
		b.Fatal(settled)
	}
}

// A tick over a window that is full of proposals with deadlines.
func BenchmarkProposerTick(b *testing.B) {
	p := proposerWith(0, 0)
	for range 100_000 {
		p.add(nil, t0.Add(time.Hour))
	}
	b.ReportAllocs()
	for b.Loop() {
		p.tick(t0)
	}
}

func BenchmarkStateClone(b *testing.B) {
	s, log := newTestState(), newMemLog()
	s.options.MaxSessions = 4096
	for i := range 1000 {
		mustApply(b, s, log.add(openRecord(b, 1, nodeN(i), 1)))
	}
	b.ReportAllocs()
	for b.Loop() {
		cutState(b, s)
	}
}
