//go:build linux && (amd64 || arm64 || loong64 || ppc64le || riscv64)

package vfs

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelSync has the kernel sync a file while the goroutine that waits for it
// is parked in the network poller: by asynchronous I/O (io_submit(2)), whose
// end an eventfd tells. What is promised is what fdatasync promises: the kernel
// calls the same function on the same open file, which is told once of a write
// that failed. One goroutine at a time uses it.
type kernelSync struct {
	context uintptr
	event   int
	ended   *os.File // the eventfd, on the poller
	request ioRequest
	word    [8]byte
}

// maxKernelSyncs is how many syncs of the process may be under way beside
// their goroutines: as many as there are logs in it, mostly one.
const maxKernelSyncs = 16

// kernelSyncs are those that nobody uses. They are kept for as long as the
// process lives: to give one back takes the kernel 40 ms.
var kernelSyncs struct {
	mu      sync.Mutex
	idle    []*kernelSync
	made    int
	refused bool // by this system
}

// syncBeside makes f's data durable. It reports false if it has done nothing:
// this system does not have it for this file, or too many are under way.
func syncBeside(f *os.File) (done bool, err error) {
	k := takeKernelSync()
	if k == nil {
		return false, nil
	}
	if err := k.submit(f); err != nil {
		giveKernelSync(k)
		return false, nil
	}
	// From here on the outcome is this sync's: asking for another one would
	// hide a failure, since a failure is told once.
	if err := k.await(); err != nil {
		return true, err // k is in an unknown state: it is not used again
	}
	var result ioResult
	n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, k.context, 1, 1, uintptr(unsafe.Pointer(&result)), 0, 0)
	if errno != 0 {
		return true, fmt.Errorf("outcome of a sync: %w", errno)
	}
	if n != 1 {
		return true, fmt.Errorf("outcome of a sync: none: %w", unix.EIO)
	}
	giveKernelSync(k)
	return true, result.err()
}

// takeKernelSync returns nil if there is none to be had.
func takeKernelSync() *kernelSync {
	all := &kernelSyncs
	all.mu.Lock()
	defer all.mu.Unlock()
	if n := len(all.idle); n > 0 {
		k := all.idle[n-1]
		all.idle = all.idle[:n-1]
		return k
	}
	if all.refused || all.made == maxKernelSyncs {
		return nil
	}
	k, err := newKernelSync()
	if err != nil {
		all.refused = true
		return nil
	}
	all.made++
	return k
}

func giveKernelSync(k *kernelSync) {
	all := &kernelSyncs
	all.mu.Lock()
	all.idle = append(all.idle, k)
	all.mu.Unlock()
}

// ioRequest is struct iocb of linux/aio_abi.h, as little-endian machines have it.
type ioRequest struct {
	_      [16]byte // data, key, flags of a write
	opcode uint16
	_      int16
	file   uint32
	_      [32]byte // buffer, length, offset, reserved
	flags  uint32
	event  uint32
}

const (
	requestFdatasync = 3 // IOCB_CMD_FDSYNC, since Linux 4.18
	requestTellsFD   = 1 // IOCB_FLAG_RESFD
)

// ioResult is struct io_event.
type ioResult struct {
	_     [16]byte // data, request
	value int64
	_     int64
}

func (r ioResult) err() error {
	if r.value < 0 {
		return unix.Errno(-r.value)
	}
	return nil
}

func (k *kernelSync) submit(f *os.File) error {
	return withFD(f, func(fd int) error {
		k.request = ioRequest{opcode: requestFdatasync, flags: requestTellsFD, file: uint32(fd), event: uint32(k.event)}
		requests := [1]*ioRequest{&k.request}
		n, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, k.context, uintptr(len(requests)), uintptr(unsafe.Pointer(&requests)))
		if errno != 0 {
			return errno
		}
		if n != 1 {
			return unix.EAGAIN
		}
		return nil
	})
}

func (k *kernelSync) await() error {
	if _, err := k.ended.Read(k.word[:]); err != nil {
		return fmt.Errorf("wait for the end of a sync: %w", err)
	}
	return nil
}

func newKernelSync() (*kernelSync, error) {
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	k := &kernelSync{event: event}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&k.context)), 0); errno != 0 {
		return nil, errors.Join(errno, unix.Close(event))
	}
	k.ended = os.NewFile(uintptr(event), "eventfd")
	return k, nil
}
