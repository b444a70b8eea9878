package report

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/copycat-replication/copycat/bench/internal/load"
	"github.com/copycat-replication/copycat/bench/internal/measure"
)

// Format is the version of Result. A reader refuses a greater one.
const Format = 1

// ErrNewerFormat says that a result was written by a newer version.
var ErrNewerFormat = errors.New("result of a newer format")

// Result is one run.
type Result struct {
	Format   int       `json:"format"`
	System   string    `json:"system"`
	Settings string    `json:"settings,omitempty"` // of the system, where they are not its defaults
	Command  string    `json:"command"`
	Began    time.Time `json:"began"`
	Run      int       `json:"run"` // counted from 1
	Runs     int       `json:"runs"`

	Plan    load.Plan       `json:"plan"`
	Machine measure.Machine `json:"machine"`

	Ops          uint64   `json:"ops"`
	OpsPerSecond float64  `json:"ops_per_second"`
	PerSecond    []uint64 `json:"ops_by_second"`
	Latency      Latency  `json:"latency_us"`

	// Of this process: all replicas, all proposers and the harness together.
	CPU          float64 `json:"cpu_us_per_op"`
	CPUUser      float64 `json:"cpu_user_us_per_op"`
	CPUSystem    float64 `json:"cpu_system_us_per_op"`
	CoresUsed    float64 `json:"cores_used"`
	CoresOthers  float64 `json:"cores_used_by_others"` // other processes, and the machine's own host
	RSSPeak      uint64  `json:"rss_peak_bytes"`
	AllocsPerOp  float64 `json:"allocs_per_op"`
	AllocBytes   float64 `json:"alloc_bytes_per_op"`
	Collections  uint32  `json:"garbage_collections"`
	PayloadBytes uint64  `json:"payload_bytes"`
	DiskBytes    uint64  `json:"disk_bytes_written"`
	CallBytes    uint64  `json:"write_call_bytes"` // files and sockets
	DiskPerByte  float64 `json:"disk_bytes_per_payload_byte"`
	SentBytes    uint64  `json:"sent_bytes"` // over TCP, by all nodes
	SentPerByte  float64 `json:"sent_bytes_per_payload_byte"`
	// Silence is the longest time in the window in which some proposer had
	// nothing applied.
	Silence float64 `json:"silence_ms"`

	Errors Errors `json:"errors"`

	// Measure is "load", "idle", "failover" or "recovery"; empty: load.
	Measure  string    `json:"measure,omitempty"`
	Idle     *Idle     `json:"idle,omitempty"`
	Recovery *Recovery `json:"recovery,omitempty"`
	Samples  []Sample  `json:"samples,omitempty"`
}

// Idle is what structures cost that nothing is proposed to.
type Idle struct {
	Create     float64 `json:"create_seconds"` // all of them
	Reopen     float64 `json:"reopen_seconds"` // nodes and structures
	CPU        float64 `json:"cpu_percent_of_core"`
	Memory     float64 `json:"memory_bytes_per_replica"`
	Goroutines float64 `json:"goroutines_per_replica"`
	// Woken is the median latency of single proposals to idle structures, Awake of the
	// next one to the same structures right after that; in microseconds, 0: not measured.
	Woken float64 `json:"woken_p50_us,omitempty"`
	Awake float64 `json:"awake_p50_us,omitempty"`
}

// Recovery is how long nodes take to come back.
type Recovery struct {
	Filled      int64   `json:"filled_bytes"` // of payloads, before
	Disk        int64   `json:"disk_bytes"`   // of all nodes
	Fill        float64 `json:"fill_seconds"`
	Open        float64 `json:"open_seconds"`         // until all nodes run and know their leaders
	FirstCommit float64 `json:"first_commit_seconds"` // until the first new proposal was applied; both from the start
}

// Sample is one look during a run.
type Sample struct {
	At     float64 `json:"at_seconds"` // since the load began
	Rate   float64 `json:"ops_per_second"`
	Memory uint64  `json:"memory_bytes"`
	Disk   int64   `json:"disk_bytes"`
}

// Latency is in microseconds.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

// Errors counts what should be zero.
type Errors struct {
	Failed     uint64 `json:"failed"`
	Broken     uint64 `json:"order_broken"`
	Unfinished uint64 `json:"unfinished"`
	Warnings   uint64 `json:"warnings"`
	First      string `json:"first,omitempty"`
}

// Any tells whether the run's figures are to be trusted.
func (e Errors) Any() bool { return e.Failed+e.Broken+e.Unfinished > 0 }

// Add puts what was done and what it cost into the result.
func (r *Result) Add(o load.Outcome, used measure.Usage, took time.Duration, peak uint64) {
	r.Ops = o.Ops
	r.OpsPerSecond = float64(o.Ops) / r.Plan.Seconds
	r.PerSecond = o.PerSecond
	r.Latency = latencyOf(o.Latency, o.Slowest)
	r.AddUsage(used, took, peak)
	r.Collections = used.Collections
	r.PayloadBytes = o.Ops * uint64(r.Plan.Payload)
	r.DiskBytes, r.CallBytes, r.SentBytes = used.DiskWritten, used.CallWritten, used.Sent
	r.Silence = o.Silence.Seconds() * 1000
	r.Errors = Errors{Failed: o.Failed, Broken: o.Broken, Unfinished: o.Unfinished, Warnings: o.Warnings}
	if o.FirstError != nil {
		r.Errors.First = o.FirstError.Error()
	}
	if o.Ops == 0 {
		return
	}
	n := float64(o.Ops)
	r.CPUUser, r.CPUSystem = micros(used.User)/n, micros(used.System)/n
	r.CPU = r.CPUUser + r.CPUSystem
	r.AllocsPerOp, r.AllocBytes = float64(used.Allocations)/n, float64(used.Allocated)/n
	r.DiskPerByte = float64(r.DiskBytes) / float64(r.PayloadBytes)
	r.SentPerByte = float64(r.SentBytes) / float64(r.PayloadBytes)
}

// AddUsage puts only what it cost into the result, where nothing was to be done.
func (r *Result) AddUsage(used measure.Usage, took time.Duration, peak uint64) {
	r.CoresUsed = used.CPU().Seconds() / took.Seconds()
	r.CoresOthers = max(0, used.MachineBusy.Seconds()+used.MachineLost.Seconds()-used.CPU().Seconds()) / took.Seconds()
	r.RSSPeak = peak
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func latencyOf(h *hdrhistogram.Histogram, slowest time.Duration) Latency {
	at := func(q float64) float64 {
		// The histogram answers with the upper end of a bucket.
		return min(float64(h.ValueAtQuantile(q))/1000, micros(slowest))
	}
	return Latency{
		Mean: h.Mean() / 1000, P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: micros(slowest),
	}
}

// Write appends the result to w, as one line.
func (r *Result) Write(w io.Writer) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	if _, err := w.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// maxLine bounds one result in a file: ops_by_second of a long soak is the largest part.
const maxLine = 16 << 20

// Read reads all results of a file. Empty lines are skipped.
func Read(from io.Reader) ([]Result, error) {
	var out []Result
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var r Result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("result in line %d: %w", n, err)
		}
		if r.Format > Format {
			return nil, fmt.Errorf("result in line %d: %w: %d, this program knows %d", n, ErrNewerFormat, r.Format, Format)
		}
		out = append(out, r)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	return out, nil
}
