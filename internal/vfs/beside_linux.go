//go:build linux && (amd64 || arm64 || loong64 || ppc64le || riscv64)

package vfs

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelIO has the kernel work for a file while the goroutine that waits for it
// is parked in the network poller: by asynchronous I/O (io_submit(2)), whose
// end an eventfd tells. What is promised of a sync is what fdatasync promises: the kernel
// calls the same function on the same open file, which is told once of a write
// that failed. One goroutine at a time uses it.
type kernelIO struct {
	context uintptr
	event   int
	ended   *os.File // the eventfd, on the poller
	request ioRequest
	word    [8]byte
	memory  []byte // what the kernel reads from
}

// maxKernelIO is how much of it the process may have: as much as there are logs in
// it, mostly one.
const maxKernelIO = 16

// kernelIOs are those that nobody uses. They are kept for as long as the
// process lives: to give one back takes the kernel 40 ms.
var kernelIOs struct {
	mu      sync.Mutex
	idle    []*kernelIO
	lost    []*kernelIO // nobody knows whether the kernel works for them still
	made    int
	refused bool // by this system
}

// syncBeside makes f's data durable. It reports false if it has done nothing:
// this system does not have it for this file, or too many are under way.
func syncBeside(f *os.File) (done bool, err error) {
	done, _, err = beside(f, ioRequest{opcode: requestFdatasync}, nil)
	return done, err
}

// writeBeside writes p to f, which goes past the page cache, and makes it durable: n
// bytes of it. It reports false if it has done nothing.
func writeBeside(f *os.File, p []byte, off int64) (done bool, n int, err error) {
	return beside(f, durableWrite(p, off), p)
}

// durableWrite is the request to write p, and to sync what was written.
func durableWrite(p []byte, off int64) ioRequest {
	return ioRequest{
		opcode: requestWrite, how: unix.RWF_DSYNC,
		buffer: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))), length: uint64(len(p)), offset: off,
	}
}

func beside(f *os.File, r ioRequest, memory []byte) (done bool, n int, err error) {
	k := takeKernelIO()
	if k == nil {
		return false, 0, nil
	}
	k.request, k.memory = r, memory
	if err := k.submit(f); err != nil {
		giveKernelIO(k)
		return false, 0, nil
	}
	// From here on the outcome is this request's: asking for another one would
	// hide a failure, since a failure is told once.
	result, err := k.await()
	if err != nil { // k is in an unknown state: it is not used again
		kernelIOs.mu.Lock()
		kernelIOs.lost = append(kernelIOs.lost, k)
		kernelIOs.mu.Unlock()
		return true, 0, err
	}
	giveKernelIO(k)
	return true, max(0, int(result.value)), result.err()
}

// takeKernelIO returns nil if there is none to be had.
func takeKernelIO() *kernelIO {
	all := &kernelIOs
	all.mu.Lock()
	defer all.mu.Unlock()
	if n := len(all.idle); n > 0 {
		k := all.idle[n-1]
		all.idle = all.idle[:n-1]
		return k
	}
	if all.refused || all.made == maxKernelIO {
		return nil
	}
	k, err := newKernelIO()
	if err != nil {
		all.refused = true
		return nil
	}
	all.made++
	return k
}

func giveKernelIO(k *kernelIO) {
	k.memory = nil
	all := &kernelIOs
	all.mu.Lock()
	all.idle = append(all.idle, k)
	all.mu.Unlock()
}

// ioRequest is struct iocb of linux/aio_abi.h, as little-endian machines have it.
type ioRequest struct {
	_      uint64 // comes back with the result
	_      uint32
	how    int32 // RWF_*
	opcode uint16
	_      int16
	file   uint32
	buffer uint64
	length uint64
	offset int64
	_      uint64
	flags  uint32
	event  uint32
}

const (
	requestWrite     = 1 // IOCB_CMD_PWRITE
	requestFdatasync = 3 // IOCB_CMD_FDSYNC, since Linux 4.18
	requestTellsFD   = 1 // IOCB_FLAG_RESFD
)

// ioResult is struct io_event.
type ioResult struct {
	_     [16]byte // data, request
	value int64    // bytes, or a negative error number
	_     int64
}

func (r ioResult) err() error {
	if r.value < 0 {
		return unix.Errno(-r.value)
	}
	return nil
}

func (k *kernelIO) submit(f *os.File) error {
	return withFD(f, func(fd int) error {
		k.request.flags, k.request.file, k.request.event = requestTellsFD, uint32(fd), uint32(k.event)
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

// await returns what the request has come to; an error says that this is not known.
func (k *kernelIO) await() (result ioResult, err error) {
	if _, err := k.ended.Read(k.word[:]); err != nil {
		return result, fmt.Errorf("wait for the kernel: %w", err)
	}
	n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, k.context, 1, 1, uintptr(unsafe.Pointer(&result)), 0, 0)
	if errno != 0 {
		return result, fmt.Errorf("outcome of a request to the kernel: %w", errno)
	}
	if n != 1 {
		return result, fmt.Errorf("outcome of a request to the kernel: none: %w", unix.EIO)
	}
	return result, nil
}

func newKernelIO() (*kernelIO, error) {
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	k := &kernelIO{event: event}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&k.context)), 0); errno != 0 {
		return nil, errors.Join(errno, unix.Close(event))
	}
	k.ended = os.NewFile(uintptr(event), "eventfd")
	if err := k.ended.SetReadDeadline(time.Time{}); err != nil {
		// Not in the poller: a read would not wait, and the outcome of a request not be known.
		return nil, errors.Join(err, k.ended.Close())
	}
	return k, nil
}
