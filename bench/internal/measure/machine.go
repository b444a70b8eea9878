package measure

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// Machine is what a figure depends on beside the code.
type Machine struct {
	Cores      int     `json:"cores"`
	GoMaxProcs int     `json:"gomaxprocs"`
	GoVersion  string  `json:"go_version"`
	System     string  `json:"system"` // operating system and architecture
	Kernel     string  `json:"kernel,omitempty"`
	Processor  string  `json:"processor,omitempty"`
	Memory     uint64  `json:"memory_bytes,omitempty"`
	FileSystem string  `json:"file_system,omitempty"` // of the nodes' directories
	Load       float64 `json:"load_average"`          // of one minute, before the run
	// SyncP50 is the median of small writes, each followed by an fdatasync, in
	// microseconds: the floor of a durable commit's latency.
	SyncP50 float64 `json:"fdatasync_p50_us"`
	SyncMax float64 `json:"fdatasync_max_us"`
}

const (
	syncs     = 100
	syncBytes = 4096
)

// ReadMachine reads the facts, and measures the disk under dir.
func ReadMachine(dir string) (Machine, error) {
	m := Machine{
		Cores: runtime.NumCPU(), GoMaxProcs: runtime.GOMAXPROCS(0), GoVersion: runtime.Version(),
		System: runtime.GOOS + "/" + runtime.GOARCH,
	}
	readMachine(&m, dir)
	took, err := measureSyncs(dir)
	if err != nil {
		return m, err
	}
	m.SyncP50 = micros(took[len(took)/2])
	m.SyncMax = micros(took[len(took)-1])
	return m, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// measureSyncs writes into a file that has its size already, as a log does
// that preallocates: a file that grows has its metadata synced each time.
func measureSyncs(dir string) (took []time.Duration, err error) {
	name := filepath.Join(dir, "fdatasync.probe")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("measure the disk: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("measure the disk: %w", cerr)
		}
		if rerr := os.Remove(name); err == nil && rerr != nil {
			err = fmt.Errorf("measure the disk: %w", rerr)
		}
	}()
	if _, err := f.Write(make([]byte, syncs*syncBytes)); err != nil {
		return nil, fmt.Errorf("measure the disk: %w", err)
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("measure the disk: %w", err)
	}
	data := make([]byte, 128)
	for i := range syncs {
		data[0] = byte(i + 1)
		began := time.Now()
		if _, err := f.WriteAt(data, int64(i)*syncBytes); err != nil {
			return nil, fmt.Errorf("measure the disk: %w", err)
		}
		if err := syncData(f); err != nil {
			return nil, fmt.Errorf("measure the disk: %w", err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took, nil
}
