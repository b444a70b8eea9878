package wal

import (
	"fmt"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
	"go.etcd.io/raft/v3/raftpb"
)

// Benchmarks write to the real disk: one operation is one synced batch.

func benchLog(b *testing.B) *Log {
	b.Helper()
	l, err := Open(Options{FS: vfs.OS{}, Dir: b.TempDir() + "/wal"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return l
}

func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ size, count int }{{128, 1}, {128, 64}, {1024, 64}} {
		b.Run(fmt.Sprintf("%dBx%d", c.size, c.count), func(b *testing.B) {
			l := benchLog(b)
			g, err := l.NewGroup()
			if err != nil {
				b.Fatal(err)
			}
			data := make([]byte, c.size)
			next := uint64(1)
			b.SetBytes(int64(c.size * c.count))
			b.ReportAllocs()
			for b.Loop() {
				list := make([]*raftpb.Entry, 0, c.count) // the log keeps what it gets
				slots := make([]entrySlot, c.count)
				for i := range slots {
					list = append(list, slots[i].fill(next, 1, raftpb.EntryNormal, data))
					next++
				}
				hs := hard(1, 1, next-1)
				u := []Update{{Group: g, Entries: list, HardState: hs}}
				if next%1024 < uint64(c.count) {
					u[0].Compact = &Mark{next - uint64(c.count) - 1, 1}
				}
				l.Submit(u, func(err error) {
					if err != nil {
						b.Fatal(err)
					}
				})
				if _, err := l.Flush(); err != nil {
					b.Fatal(err)
				}
				if l.segmentCount() > 3 {
					for more := true; more; {
						if more, err = l.Reclaim(); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
		})
	}
}

func (l *Log) segmentCount() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.order)
}

func BenchmarkThousandGroups(b *testing.B) {
	l := benchLog(b)
	const n = 1000
	groups := make([]uint64, n)
	for i := range groups {
		groups[i], _ = l.NewGroup()
	}
	data := make([]byte, 128)
	index := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		index++
		slots := make([]entrySlot, n)
		for i, g := range groups {
			u := []Update{{Group: g, Entries: []*raftpb.Entry{slots[i].fill(index, 1, raftpb.EntryNormal, data)}}}
			l.Submit(u, func(err error) {
				if err != nil {
					b.Fatal(err)
				}
			})
		}
		if got, err := l.Flush(); got != n || err != nil {
			b.Fatalf("%d, %v", got, err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, from := range []string{"cache", "disk"} {
		b.Run(from, func(b *testing.B) {
			l := benchLog(b)
			if from == "disk" {
				l.opts.CacheBytes = 1
			}
			g, _ := l.NewGroup()
			for i := range uint64(64) {
				l.Submit([]Update{{Group: g, Entries: entries(g, i*64+1, i*64+64, 1, 1024)}}, func(error) {})
				if _, err := l.Flush(); err != nil {
					b.Fatal(err)
				}
			}
			at := uint64(0)
			b.SetBytes(64 << 10)
			b.ReportAllocs()
			for b.Loop() {
				if got, err := l.Entries(g, at*64+1, at*64+65, 1<<20); err != nil || len(got) != 64 {
					b.Fatalf("%d, %v", len(got), err)
				}
				at = (at + 1) % 64
			}
		})
	}
}
