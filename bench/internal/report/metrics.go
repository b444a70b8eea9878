package report

import (
	"fmt"
	"time"
)

// Metric is one figure of a result.
type Metric struct {
	Key  string // in JSON
	Name string // in tables
	Of   func(*Result) float64
	Show func(float64) string
	// Ratio says how systems are compared by it: +1 more is better, -1 less is
	// better, 0 not at all.
	Ratio int
}

var (
	given     = Metric{"ops_per_second", "op/s", func(r *Result) float64 { return r.OpsPerSecond }, thousands, 0}
	rate      = Metric{"ops_per_second", "op/s", func(r *Result) float64 { return r.OpsPerSecond }, thousands, +1}
	p50       = Metric{"p50_us", "p50", func(r *Result) float64 { return r.Latency.P50 }, span, -1}
	p99       = Metric{"p99_us", "p99", func(r *Result) float64 { return r.Latency.P99 }, span, -1}
	p999      = Metric{"p99_9_us", "p99.9", func(r *Result) float64 { return r.Latency.P999 }, span, -1}
	slowest   = Metric{"max_us", "max", func(r *Result) float64 { return r.Latency.Max }, span, 0}
	cpu       = Metric{"cpu_us_per_op", "CPU µs/op", func(r *Result) float64 { return r.CPU }, digits, -1}
	cores     = Metric{"cores_used", "cores", func(r *Result) float64 { return r.CoresUsed }, digits, 0}
	others    = Metric{"cores_used_by_others", "others", func(r *Result) float64 { return r.CoresOthers }, digits, 0}
	allocs    = Metric{"allocs_per_op", "allocs/op", func(r *Result) float64 { return r.AllocsPerOp }, digits, 0}
	rss       = Metric{"rss_peak_bytes", "RSS", func(r *Result) float64 { return float64(r.RSSPeak) }, size, -1}
	disk      = Metric{"disk_bytes_per_payload_byte", "disk/payload", func(r *Result) float64 { return r.DiskPerByte }, digits, 0}
	sent      = Metric{"sent_bytes_per_payload_byte", "sent/payload", func(r *Result) float64 { return r.SentPerByte }, digits, 0}
	share     = Metric{"share_of_disk", "of the disk", shareOfDisk, percent, 0}
	silence   = Metric{"silence_ms", "without commits", func(r *Result) float64 { return r.Silence * 1000 }, span, -1}
	create    = Metric{"create_seconds", "creation", ofIdle(func(i *Idle) float64 { return i.Create * 1e6 }), span, -1}
	reopen    = Metric{"reopen_seconds", "reopening", ofIdle(func(i *Idle) float64 { return i.Reopen * 1e6 }), span, -1}
	idleCPU   = Metric{"cpu_percent_of_core", "CPU, % of a core", ofIdle(func(i *Idle) float64 { return i.CPU }), digits, -1}
	memory    = Metric{"memory_bytes_per_replica", "memory/replica", ofIdle(func(i *Idle) float64 { return i.Memory }), size, -1}
	threads   = Metric{"goroutines_per_replica", "goroutines/replica", ofIdle(func(i *Idle) float64 { return i.Goroutines }), digits, 0}
	woken     = Metric{"woken_p50_us", "woken, p50", ofIdle(func(i *Idle) float64 { return i.Woken }), spanIfAny, -1}
	awake     = Metric{"awake_p50_us", "awake, p50", ofIdle(func(i *Idle) float64 { return i.Awake }), spanIfAny, -1}
	fill      = Metric{"fill_seconds", "filled in", ofRecovery(func(r *Recovery) float64 { return r.Fill * 1e6 }), span, 0}
	stored    = Metric{"disk_bytes", "on disk", ofRecovery(func(r *Recovery) float64 { return float64(r.Disk) }), size, 0}
	opened    = Metric{"open_seconds", "open after", ofRecovery(func(r *Recovery) float64 { return r.Open * 1e6 }), span, -1}
	memory1   = Metric{"memory_most_1st_half", "memory, 1st half", ofSamples(firstHalf, sampleMemory), size, 0}
	memory2   = Metric{"memory_most_2nd_half", "memory, 2nd half", ofSamples(secondHalf, sampleMemory), size, -1}
	disk1     = Metric{"disk_most_1st_half", "disk, 1st half", ofSamples(firstHalf, sampleDisk), size, 0}
	disk2     = Metric{"disk_most_2nd_half", "disk, 2nd half", ofSamples(secondHalf, sampleDisk), size, -1}
	committed = Metric{"first_commit_seconds", "first commit after", ofRecovery(func(r *Recovery) float64 { return r.FirstCommit * 1e6 }), span, -1}
)

// The halves of the time in which samples were taken: what does not grow has no
// more in the second one.
func firstHalf(all []Sample) []Sample  { return all[:len(all)/2] }
func secondHalf(all []Sample) []Sample { return all[len(all)/2:] }

func sampleMemory(s Sample) float64 { return float64(s.Memory) }
func sampleDisk(s Sample) float64   { return float64(s.Disk) }

// ofSamples is the most of something in some of the samples.
func ofSamples(which func([]Sample) []Sample, f func(Sample) float64) func(*Result) float64 {
	return func(r *Result) (most float64) {
		for _, s := range which(r.Samples) {
			most = max(most, f(s))
		}
		return most
	}
}

func ofIdle(f func(*Idle) float64) func(*Result) float64 {
	return func(r *Result) float64 {
		if r.Idle == nil {
			return 0
		}
		return f(r.Idle)
	}
}

func ofRecovery(f func(*Recovery) float64) func(*Result) float64 {
	return func(r *Result) float64 {
		if r.Recovery == nil {
			return 0
		}
		return f(r.Recovery)
	}
}

// Kinds of measurement beside those that -measure names. A case is of one of
// them by what its runs have.
const (
	fixedRate = "rate" // so many operations a second were given: they are no result
	overTime  = "soak" // samples were taken
)

// Metrics are the figures of a kind of measurement, in the order of a table.
func Metrics(measure string) []Metric {
	switch measure {
	case fixedRate:
		return []Metric{p99, p50, p999, slowest, cpu, given, cores, others, allocs, rss, disk, share, sent}
	case overTime:
		return []Metric{memory1, memory2, disk1, disk2, given, p50, p99, cpu, others}
	case "idle":
		return []Metric{idleCPU, memory, threads, rss, create, reopen, woken, awake, others}
	case "failover":
		return []Metric{silence, rate, p50, p99, cpu, rss, others}
	case "recovery":
		return []Metric{committed, opened, fill, stored, rss, others}
	}
	return []Metric{rate, p50, p99, p999, slowest, cpu, cores, others, allocs, rss, disk, share, sent}
}

// span shows microseconds with three digits that matter.
func span(us float64) string {
	switch d := time.Duration(us * float64(time.Microsecond)); {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", us/1000)
	case d >= time.Millisecond:
		return fmt.Sprintf("%.2f ms", us/1000)
	}
	return fmt.Sprintf("%.0f µs", us)
}

// spanIfAny is span of what was measured.
func spanIfAny(us float64) string {
	if us == 0 {
		return "-"
	}
	return span(us)
}

// shareOfDisk is how much of what the disk takes goes into the payloads of all
// copies: 1 would be no bytes but those, and a disk that never waits.
func shareOfDisk(r *Result) float64 {
	if r.Machine.DiskRate == 0 {
		return 0
	}
	return r.OpsPerSecond * float64(r.Plan.Payload) * float64(r.Plan.Nodes) / r.Machine.DiskRate
}

func percent(f float64) string { return fmt.Sprintf("%.0f %%", 100*f) }

func thousands(f float64) string {
	s := fmt.Sprintf("%.0f", f)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func digits(f float64) string {
	if f >= 100 {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprintf("%.2f", f)
}

func size(bytes float64) string {
	switch {
	case bytes >= 10<<30:
		return fmt.Sprintf("%.1f GB", bytes/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.0f MB", bytes/(1<<20))
	}
	return fmt.Sprintf("%.1f kB", bytes/(1<<10))
}
