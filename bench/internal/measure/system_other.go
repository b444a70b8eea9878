//go:build !linux

package measure

import (
	"io/fs"
	"os"
)

func readSystem(*Usage) {}

// PeakMemory is the largest resident set of this process since ResetPeak.
func PeakMemory() uint64 { return 0 }

// ResetPeak begins a new peak of memory.
func ResetPeak() {}

// Allocated is the size of a file.
func Allocated(info fs.FileInfo) int64 { return info.Size() }

func readMachine(*Machine, string) {}

func syncData(f *os.File) error { return f.Sync() }

func preallocate(f *os.File, n int64) error { return f.Truncate(n) }
