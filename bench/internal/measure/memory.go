package measure

import (
	"fmt"
	"runtime/metrics"
	"strings"
)

// DescribeMemory says what the memory that Go holds is used for, in MB, for
// people: what is resident beside it is mapped files and the program itself.
func DescribeMemory() string {
	parts := []struct{ name, metric string }{
		{"objects", "/memory/classes/heap/objects:bytes"},
		{"free between objects", "/memory/classes/heap/unused:bytes"},
		{"free", "/memory/classes/heap/free:bytes"},
		{"stacks", "/memory/classes/heap/stacks:bytes"},
		{"metadata", "/memory/classes/metadata/other:bytes"},
		{"spans", "/memory/classes/metadata/mspan/inuse:bytes"},
		{"profiler", "/memory/classes/profiling/buckets:bytes"},
		{"other", "/memory/classes/other:bytes"},
	}
	samples := make([]metrics.Sample, len(parts))
	for i, p := range parts {
		samples[i].Name = p.metric
	}
	metrics.Read(samples)
	var out strings.Builder
	for i, p := range parts {
		if samples[i].Value.Kind() != metrics.KindUint64 {
			continue // of another Go
		}
		fmt.Fprintf(&out, "%s %.1f, ", p.name, float64(samples[i].Value.Uint64())/(1<<20))
	}
	return strings.TrimSuffix(out.String(), ", ")
}
