package transport

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// BenchmarkUrgentBesideBulk measures how long an urgent message takes while
// ordinary ones fill the queue to the same node: the median and the 99th
// percentile of one way, in microseconds.
func BenchmarkUrgentBesideBulk(b *testing.B) {
	c := tcpCluster(b)
	arrived := make(chan time.Duration, 1)
	start := time.Now()
	h := newRecorder()
	h.onBatch = func(_ id.Node, batch []Message) {
		for _, m := range batch {
			if m.Urgent {
				arrived <- time.Since(start) - time.Duration(binary.LittleEndian.Uint64(m.Payload))
			}
		}
	}
	cfg := c.config(1, newRecorder())
	cfg.QueueBytes, cfg.MaxFrame = 16<<20, 4<<20
	a := c.start(cfg)
	c.start(c.config(2, h))
	stop, flooded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(flooded)
		payload := make([]byte, 64<<10)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			err := a.Send(nodeID(2), Message{Group: groupID(byte(i)), From: 1, To: 2, Payload: payload})
			if errors.Is(err, ErrQueueFull) {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	var took []time.Duration
	for b.Loop() {
		payload := binary.LittleEndian.AppendUint64(nil, uint64(time.Since(start)))
		if err := a.Send(nodeID(2), Message{Group: groupID(1), From: 1, To: 2, Payload: payload, Urgent: true}); err != nil {
			b.Fatal(err)
		}
		took = append(took, <-arrived)
		time.Sleep(200 * time.Microsecond)
	}
	close(stop)
	<-flooded
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
