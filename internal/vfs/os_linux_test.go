package vfs

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// A full disk of the real kind is ErrNoSpace and keeps its cause.
func TestOSNoSpace(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full here")
	}
	f, err := OS{}.OpenReadWrite("/dev/full")
	must(t, err)
	_, err = f.WriteAt([]byte("x"), 0)
	if !errors.Is(err, ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%v", err)
	}
	must(t, f.Close())
}

// Where fallocate is not supported zeros are written, over nothing that is there.
func TestPreallocateZeros(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("head")
	must(t, err)
	must(t, preallocateZeros(f, 600<<10))
	must(t, preallocateZeros(f, 10))
	got, err := os.ReadFile(f.Name())
	must(t, err)
	if len(got) != 600<<10 || string(got[:5]) != "head\x00" {
		t.Fatalf("%d bytes, starting with %q", len(got), got[:5])
	}
}

// TestLockIsFreeWhileProcessesStart takes a lock again and again right after it
// was given up, while processes are started: each has all files of this one for a
// moment, until it executes.
func TestLockIsFreeWhileProcessesStart(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "LOCK")
	ctx, cancel := context.WithCancel(t.Context())
	var starting sync.WaitGroup
	for range 4 {
		starting.Go(func() {
			for ctx.Err() == nil {
				if err := exec.CommandContext(ctx, "true").Run(); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 2000 {
		l, err := OS{}.Lock(name)
		if err != nil {
			t.Errorf("time %d: %v", i, err)
			break
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	cancel()
	starting.Wait()
}
