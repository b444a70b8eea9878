package wan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

const (
	// readBurst is how many packets of one device are read before others have
	// their turn, and before what is due is looked at.
	readBurst = 32
)

// relay moves packets between the TUN devices of hosts, from one thread.
type relay struct {
	tuns   []int // by host
	centre []int // of each host
	index  map[[4]byte]int
	epoll  int
	timer  int
	wake   int // an eventfd: the loop shall end

	mu       sync.Mutex // held by the loop while it works, not while it waits
	pipes    [][]*pipe
	isolated []bool
	stop     bool
	late     *hdrhistogram.Histogram // nanoseconds after the due time
	worst    int64
	overdue  uint64
	strange  uint64 // packets of no host, or of no known form
	refused  uint64 // by a device
	cpu      time.Duration
	failure  error
	realtime bool
	counters relayMark

	buffers [3][][]byte
	scratch []byte
	armed   int64
	done    chan struct{}
}

// relayMark is where counters stood at the last reset.
type relayMark struct {
	at  time.Time
	cpu time.Duration
}

// bufferSizes are those of the free lists: one segment, some, the largest.
var bufferSizes = [...]int{2 << 10, 16 << 10, tunBytes}

func newRelay(seed uint64, centers int, tuns, centerOf []int, addresses [][4]byte) (_ *relay, err error) {
	r := &relay{
		tuns: tuns, centre: centerOf, index: make(map[[4]byte]int), isolated: make([]bool, len(tuns)),
		epoll: -1, timer: -1, wake: -1, scratch: make([]byte, tunBytes), done: make(chan struct{}),
		late: hdrhistogram.New(1000, int64(10*time.Second), 2),
	}
	for i, a := range addresses {
		r.index[a] = i
	}
	for from := range centers {
		row := make([]*pipe, centers)
		for to := range centers {
			row[to] = newPipe(seed, from, to)
			row[to].set(Link{})
		}
		r.pipes = append(r.pipes, row)
	}
	defer func() {
		if err != nil {
			r.closeFiles()
		}
	}()
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	if r.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("relay: timer: %w", err)
	}
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	for _, fd := range append([]int{r.timer, r.wake}, tuns...) {
		if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return nil, fmt.Errorf("relay: %w", err)
		}
	}
	ready := make(chan struct{})
	go r.run(ready)
	<-ready
	return r, nil
}

// run is the relay's thread, which ends with it.
func (r *relay) run(ready chan<- struct{}) {
	defer close(r.done)
	runtime.LockOSThread() // and never unlocked: its priority dies with it
	r.realtime = schedule(0, unix.SCHED_FIFO, 2) == nil
	r.cpu = threadTime() // the thread may have done other things before
	r.counters = relayMark{at: time.Now(), cpu: r.cpu}
	close(ready)
	events := make([]unix.EpollEvent, len(r.tuns)+2)
	for round := 0; ; round++ {
		n, err := unix.EpollWait(r.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			r.fail(fmt.Errorf("relay: wait: %w", err))
			return
		}
		if !r.work(events[:max(n, 0)], round&63 == 0) {
			return
		}
	}
}

func (r *relay) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failure = err
}

// work reads what came, and delivers what is due. False: the relay ends.
func (r *relay) work(events []unix.EpollEvent, account bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop {
		return false
	}
	for _, e := range events {
		switch fd := int(e.Fd); fd {
		case r.timer, r.wake:
			var ticks [8]byte
			_, _ = unix.Read(fd, ticks[:]) // only to silence it
			r.armed = 0
		default:
			if err := r.read(fd); err != nil {
				r.failure = err
				return false
			}
		}
		r.deliver()
	}
	if err := r.arm(); err != nil {
		r.failure = err
		return false
	}
	if account {
		r.cpu = threadTime()
	}
	return true
}

// schedule gives a thread (0: this one) a way of being scheduled. Real-time
// priorities go before all that is ordinary.
func schedule(tid int, policy, priority uint32) error {
	return unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Priority: priority}, 0)
}

// promote gives all threads of this process a real-time priority, below the
// relay's; threads that they make get it too.
//
// Go's scheduler takes the relay from its thread every 10 ms, and another
// thread has to give it back. Where that one waits behind the nodes' processes,
// packets were up to 100 ms late.
func promote() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("real-time priority: %w", err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return fmt.Errorf("real-time priority: %w", err)
		}
		if err := schedule(tid, unix.SCHED_FIFO, 1); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("real-time priority: %w", err)
		}
	}
	return nil
}

// monotonic is the clock of CLOCK_MONOTONIC, which the timer uses too.
func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // it cannot fail
	return ts.Nano()
}

func threadTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // it cannot fail
	return time.Duration(ts.Nano())
}

// quick reads or writes without telling Go's scheduler, which would give this
// thread's place away, and have it wait for an ordinary thread to get one back.
// The devices never block.
func quick(call uintptr, fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func (r *relay) read(fd int) error {
	for range readBurst {
		n, err := quick(unix.SYS_READ, fd, r.scratch)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return nil
		case err != nil:
			return fmt.Errorf("relay: read: %w", err)
		}
		r.route(r.scratch[:n])
	}
	return nil
}

// route decides about one packet.
func (r *relay) route(raw []byte) {
	f, ok := parse(raw)
	if !ok {
		if len(raw) > virtioHeader && raw[virtioHeader]>>4 != 6 { // the kernel looks for IPv6 neighbours
			r.strange++
		}
		return
	}
	from, known := r.index[f.source]
	to, reachable := r.index[f.target]
	if !known || !reachable {
		r.strange++
		return
	}
	p := r.pipes[r.centre[from]][r.centre[to]]
	if r.isolated[from] || r.isolated[to] {
		p.count.CutOff += uint64(f.segments)
		return
	}
	now := monotonic()
	first := -1 // of the segments that go together
	for i := range f.segments {
		if p.admit(now, f.size(i)) == passes {
			if first < 0 {
				first = i
			}
			continue
		}
		if first >= 0 {
			r.queue(p, &f, first, i, to, now)
		}
		first = -1
	}
	if first >= 0 {
		r.queue(p, &f, first, f.segments, to, now)
	}
}

func (r *relay) queue(p *pipe, f *frame, from, below, to int, now int64) {
	p.push(packet{data: f.cut(r.buffer(len(f.raw)), from, below), to: to, due: p.due(now)})
}

func (r *relay) buffer(size int) []byte {
	for i, s := range bufferSizes {
		if size > s {
			continue
		}
		if n := len(r.buffers[i]); n > 0 {
			b := r.buffers[i][n-1]
			r.buffers[i] = r.buffers[i][:n-1]
			return b
		}
		return make([]byte, s)
	}
	return make([]byte, size)
}

func (r *relay) free(b []byte) {
	for i, s := range bufferSizes {
		if cap(b) == s {
			r.buffers[i] = append(r.buffers[i], b[:s])
		}
	}
}

// deliver writes what is due.
func (r *relay) deliver() {
	now := monotonic()
	for _, row := range r.pipes {
		for _, p := range row {
			for {
				due, ok := p.next()
				if !ok || due > now {
					break
				}
				r.write(p.pop())
				now = monotonic()
			}
		}
	}
}

func (r *relay) write(x packet) {
	late := monotonic() - x.due
	_ = r.late.RecordValue(min(max(late, 0), int64(10*time.Second))) // in range, so it cannot fail
	r.worst = max(r.worst, late)
	if late > int64(lateness) {
		r.overdue++
	}
	if _, err := quick(unix.SYS_WRITE, r.tuns[x.to], x.data); err != nil {
		r.refused++
	}
	r.free(x.data)
}

// arm sets the timer to the next due time.
func (r *relay) arm() error {
	var next int64
	for _, row := range r.pipes {
		for _, p := range row {
			if due, ok := p.next(); ok && (next == 0 || due < next) {
				next = due
			}
		}
	}
	if next == r.armed {
		return nil
	}
	r.armed = next
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(next)} // zero: none
	if err := unix.TimerfdSettime(r.timer, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		return fmt.Errorf("relay: timer: %w", err)
	}
	return nil
}

func (r *relay) close() {
	r.mu.Lock()
	r.stop = true
	r.mu.Unlock()
	one := binary.NativeEndian.AppendUint64(nil, 1)
	_, _ = unix.Write(r.wake, one) // cannot fail: the counter is small
	<-r.done
	r.closeFiles()
}

// closeFiles closes the relay's own files, not the devices.
func (r *relay) closeFiles() {
	for _, fd := range []int{r.epoll, r.timer, r.wake} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
