//go:build !linux

package measure

import "os"

func readSystem(*Usage) {}

// PeakMemory is the largest resident set of this process since ResetPeak.
func PeakMemory() uint64 { return 0 }

// ResetPeak begins a new peak of memory.
func ResetPeak() {}

func readMachine(*Machine, string) {}

func syncData(f *os.File) error { return f.Sync() }
