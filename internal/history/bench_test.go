package history

import (
	"io"
	"testing"
)

// big is a history of five subscribers that all get n commits.
func big(b *testing.B, n int, out io.Writer) *History {
	b.Helper()
	r := NewRecorder(clockAt(1), out)
	var js []*Journal
	for node := range uint16(5) {
		j, err := r.Open(Subscriber{1, node + 1, 1, 1})
		if err != nil {
			b.Fatal(err)
		}
		js = append(js, j)
	}
	for i := range n {
		_, p := js[i%5].Propose(OpPut, uint32(i%100), 100)
		for _, j := range js {
			if _, err := j.Deliver(p, uint64(i+1)); err != nil {
				b.Fatal(err)
			}
		}
		if i%1000 != 999 {
			continue
		}
		s, err := js[0].Provide()
		if err != nil {
			b.Fatal(err)
		}
		for _, j := range js {
			if err := j.Load(s); err != nil {
				b.Fatal(err)
			}
		}
	}
	r.End()
	return r.History()
}

func BenchmarkRecord(b *testing.B) {
	for b.Loop() {
		big(b, 10_000, nil)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/60_000, "ns/event")
}

func BenchmarkRecordToLines(b *testing.B) {
	for b.Loop() {
		big(b, 10_000, io.Discard)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/60_000, "ns/event")
}

func BenchmarkCheck(b *testing.B) {
	h := big(b, 10_000, nil)
	b.ResetTimer()
	for b.Loop() {
		if err := Check(h, checked).Err(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/60_000, "ns/event")
}
