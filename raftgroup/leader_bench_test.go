package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/snapshot"
	"github.com/copycat-replication/copycat/wal"
)

// alone is the world of a node that has no other: nobody to send to.
type alone struct{}

func (alone) Now() time.Time                 { return time.Now() }
func (alone) Send(id.Node, Message) error    { return nil }
func (alone) Flush()                         {}
func (alone) Nodes() []Node                  { return []Node{{ID: nodeN(1), Incarnation: 1}} }
func (alone) Holders(id.Structure) []id.Node { return nil }
func (alone) Publish([]Hosted)               {}

func (alone) Call(context.Context, id.Node, uint16, []byte) ([]byte, error) {
	return nil, errors.ErrUnsupported
}

func (alone) Fetch(context.Context, id.Node, []byte) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}

// aloneHost starts a host on real files, and a group of which it has the only
// replica.
func aloneHost(b *testing.B) (*Host, Genesis) {
	b.Helper()
	log, err := wal.Open(wal.Options{FS: vfs.OS{}, Dir: b.TempDir() + "/wal"})
	if err != nil {
		b.Fatal(err)
	}
	log.Start()
	snaps, err := snapshot.OpenStore(snapshot.Options{FS: vfs.OS{}, Dir: b.TempDir() + "/snapshots"})
	if err != nil {
		b.Fatal(err)
	}
	h, err := NewHost(Config{Node: nodeN(1), Incarnation: 1, Log: log, Snapshots: snaps, Network: alone{}, Directory: alone{}, Clock: alone{}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(h.Close(), log.Close()); err != nil {
			b.Error(err)
		}
	})
	h.Start()
	g := Genesis{Group: id.Group{Structure: id.Structure{7}}, Token: Token{1}, Members: map[id.Replica]id.Node{1: nodeN(1)}}
	if err := h.Prepare(b.Context(), g); err != nil {
		b.Fatal(err)
	}
	if err := h.StartPrepared(b.Context(), g.Token, id.Incarnation{Birth: 2}); err != nil {
		b.Fatal(err)
	}
	return h, g
}

// BenchmarkLeader is the way of proposals of 128 bytes through a leader, from
// the propose channel over a synced log to the commit channel, with so many
// under way at a time. What a proposal in a batch allocates stays below one.
func BenchmarkLeader(b *testing.B) {
	for _, window := range []int{1, 64, 1024} {
		b.Run(fmt.Sprint(window), func(b *testing.B) {
			h, g := aloneHost(b)
			sub, err := h.Subscribe(SubscriptionConfig{Structure: g.Group.Structure, Provider: func() ([]byte, error) { return nil, nil }})
			if err != nil {
				b.Fatal(err)
			}
			payload := make([]byte, 128)
			room := make(chan struct{}, window)
			go func() {
				for c := range sub.Commits() {
					if c == nil {
						if _, err := sub.Consume(); err != nil {
							b.Error(err)
						}
						continue
					}
					<-room
				}
			}()
			room <- struct{}{} // the first one waits for the leader and the base
			sub.Propose() <- payload
			for len(room) > 0 {
				time.Sleep(time.Millisecond)
			}
			var before, after runtime.MemStats
			b.SetBytes(int64(len(payload)))
			runtime.ReadMemStats(&before)
			b.ResetTimer()
			for range b.N {
				room <- struct{}{}
				sub.Propose() <- payload
			}
			for len(room) > 0 {
				time.Sleep(10 * time.Microsecond)
			}
			b.StopTimer()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N), "allocs/proposal")
			b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N), "B/proposal")
		})
	}
}
