package measure

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
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
	// DiskRate is what the disk takes of three files side by side, in blocks of
	// 256 KiB, each followed by an fdatasync, in bytes a second: the ceiling of
	// three logs' throughput.
	DiskRate float64 `json:"disk_bytes_per_second,omitempty"`
}

const (
	syncs     = 100
	syncBytes = 4096

	rateFiles    = 3
	rateFileSize = 64 << 20
	rateBlock    = 256 << 10
	rateFor      = 500 * time.Millisecond
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
	m.DiskRate, err = measureRate(dir)
	return m, err
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// measureRate writes as three logs do that have more than enough to write.
func measureRate(dir string) (float64, error) {
	var (
		wg      sync.WaitGroup
		errs    [rateFiles]error
		written [rateFiles]int64
		took    [rateFiles]time.Duration
	)
	for i := range rateFiles {
		wg.Go(func() {
			written[i], took[i], errs[i] = writeFor(filepath.Join(dir, fmt.Sprintf("rate%d.probe", i)), rateFor)
		})
	}
	wg.Wait()
	rate := 0.0
	for i := range rateFiles {
		rate += float64(written[i]) / took[i].Seconds()
	}
	if err := errors.Join(errs[:]...); err != nil {
		return 0, fmt.Errorf("measure the disk's rate: %w", err)
	}
	return rate, nil
}

// writeFor writes into a new file, round and round, for some time.
func writeFor(name string, span time.Duration) (written int64, took time.Duration, err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(name)) }()
	if err := preallocate(f, rateFileSize); err != nil {
		return 0, 0, err
	}
	block := make([]byte, rateBlock)
	began := time.Now()
	for took < span {
		block[0]++
		if _, err := f.WriteAt(block, written%rateFileSize); err != nil {
			return 0, 0, err
		}
		if err := syncData(f); err != nil {
			return 0, 0, err
		}
		written += rateBlock
		took = time.Since(began)
	}
	return written, took, nil
}

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
