package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
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

// BenchmarkNeighbour measures what a single proposal at a time takes on one
// structure, alone and beside others of the same node: one whose consumer does
// not read, one that is flooded, and one whose snapshot of a gigabyte is being
// written. p50 and p99 are in microseconds.
func BenchmarkNeighbour(b *testing.B) {
	for _, beside := range []string{"nobody", "stuck", "snapshot", "flood"} {
		b.Run(beside, func(b *testing.B) {
			h, g := aloneHost(b)
			probe := subscribeAlone(b, h, g)
			if beside != "nobody" {
				other := Genesis{Group: id.Group{Structure: id.Structure{8}}, Token: Token{2}, Members: map[id.Replica]id.Node{1: nodeN(1)}}
				foundAlone(b, h, other, 3)
				disturb(b, h, beside, other)
			}
			payload := make([]byte, 128)
			var took []time.Duration
			for b.Loop() {
				at := time.Now()
				probe.Propose() <- payload
				<-probe.Commits()
				took = append(took, time.Since(at))
			}
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// subscribeAlone subscribes, and waits until the first proposal is committed.
func subscribeAlone(b *testing.B, h *Host, g Genesis) *Subscription {
	b.Helper()
	sub, err := h.Subscribe(SubscriptionConfig{Structure: g.Group.Structure, Provider: func() ([]byte, error) { return nil, nil }})
	if err != nil {
		b.Fatal(err)
	}
	sub.Propose() <- []byte("first")
	for c := range sub.Commits() {
		if c != nil {
			return sub
		}
		if _, err := sub.Consume(); err != nil {
			b.Fatal(err)
		}
	}
	b.Fatal("ended")
	return nil
}

func foundAlone(b *testing.B, h *Host, g Genesis, birth uint64) {
	b.Helper()
	if err := h.Prepare(b.Context(), g); err != nil {
		b.Fatal(err)
	}
	if err := h.StartPrepared(b.Context(), g.Token, id.Incarnation{Birth: birth}); err != nil {
		b.Fatal(err)
	}
}

// disturb does to a structure what its neighbours must not feel, until the
// benchmark ends.
func disturb(b *testing.B, h *Host, how string, g Genesis) {
	b.Helper()
	var work sync.WaitGroup
	stop := make(chan struct{})
	b.Cleanup(func() { close(stop); work.Wait() })
	sub := subscribeAlone(b, h, g)
	payload := make([]byte, 1024)
	switch how {
	case "stuck", "flood":
		work.Go(func() {
			for {
				select {
				case sub.Propose() <- payload:
				case <-stop:
					return
				}
				if how == "stuck" {
					time.Sleep(time.Millisecond)
				}
			}
		})
		if how == "flood" {
			work.Go(func() {
				for {
					select {
					case c := <-sub.Commits():
						if c == nil {
							if _, err := sub.Consume(); err != nil {
								return
							}
						}
					case <-stop:
						return
					}
				}
			})
		}
	case "snapshot":
		work.Go(func() {
			chunk := make([]byte, 256<<10)
			for n := uint64(1); ; n++ {
				w, err := h.snaps.Create(1<<40, snapshot.Head{Index: n})
				if err != nil {
					b.Error(err)
					return
				}
				for range 4096 {
					select {
					case <-stop:
						w.Abort()
						return
					default:
					}
					if _, err := w.Write(chunk); err != nil {
						b.Error(err)
						return
					}
				}
				w.Abort()
			}
		})
	}
}
