package measure

import (
	"runtime"
	"testing"
	"time"
)

func TestReadGrows(t *testing.T) {
	t.Parallel()
	before := Read()
	sum := 0
	for Read().CPU()-before.CPU() < 2*time.Millisecond {
		for _, b := range make([]byte, 1<<20) {
			sum += int(b)
		}
		if runtime.GOOS != "linux" {
			t.Skip("no counters here")
		}
	}
	t.Logf("the sum of nothing is %d", sum)
	used := Read().Since(before)
	if used.CPU() <= 0 || used.Allocations == 0 || used.Allocated == 0 {
		t.Errorf("used %+v", used)
	}
	if PeakMemory() < 1<<20 {
		t.Errorf("peak of memory: %d bytes", PeakMemory())
	}
}

func TestReadMachine(t *testing.T) {
	t.Parallel()
	m, err := ReadMachine(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if m.Cores < 1 || m.GoVersion == "" || m.SyncP50 <= 0 || m.SyncMax < m.SyncP50 || m.DiskRate <= 0 {
		t.Errorf("machine %+v", m)
	}
	if runtime.GOOS == "linux" && (m.Kernel == "" || m.Memory == 0 || m.FileSystem == "") {
		t.Errorf("machine %+v", m)
	}
	if _, err := ReadMachine(t.TempDir() + "/absent"); err == nil {
		t.Error("the disk of a directory that does not exist was measured")
	}
}
