package transport

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/copycat-replication/copycat/id"
)

// BenchmarkMessages sends messages of one size over TCP loopback from as many
// goroutines as there are processors, and waits until all have arrived.
// Compare it with the table of measured transports: 200 B, 4 KiB, 64 KiB.
func BenchmarkMessages(b *testing.B) {
	for _, secured := range []bool{false, true} {
		for _, size := range []int{200, 4 << 10, 64 << 10} {
			name := fmt.Sprintf("tcp/%d", size)
			if secured {
				name = fmt.Sprintf("tls/%d", size)
			}
			b.Run(name, func(b *testing.B) { benchmarkMessages(b, size, secured) })
		}
	}
}

func benchmarkMessages(b *testing.B, size int, secured bool) {
	// The senders stay at most about 8 MiB ahead of the receiver: a credit is
	// a run of messages, and comes back when that many have arrived.
	run := int64(max(1, min(64, 256<<10/size)))
	credits := make(chan struct{}, max(4, 8<<20/(run*int64(size))))
	for range cap(credits) {
		credits <- struct{}{}
	}
	c := tcpCluster(b)
	var received int64
	done := make(chan struct{})
	target := int64(b.N)
	h := newRecorder()
	h.onBatch = func(_ id.Node, batch []Message) {
		before := received / run
		received += int64(len(batch))
		for ; before < received/run; before++ {
			credits <- struct{}{}
		}
		if received == target {
			close(done)
		}
	}
	ca, cb := c.config(1, newRecorder()), c.config(2, h)
	if secured {
		ca.TLS = testTLS(b)
		cb.TLS = ca.TLS
	}
	a := c.start(ca)
	c.start(cb)
	payload := make([]byte, size)
	var left atomic.Int64
	left.Store(target)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for range runtime.GOMAXPROCS(0) {
		go func() {
			for {
				until := left.Add(-run)
				if until <= -run {
					return
				}
				<-credits
				for range min(run, run+until) {
					if err := a.Send(nodeID(2), Message{Group: groupID(1), From: 1, To: 2, Payload: payload}); err != nil {
						b.Error(err)
					}
				}
			}
		}()
	}
	<-done
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1000, "kmsg/s")
}
