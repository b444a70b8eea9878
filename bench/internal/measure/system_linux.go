package measure

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of /proc/stat: USER_HZ, 100 a second on every port of
// Linux that Go runs on.
const clockTick = 10 * time.Millisecond

func readSystem(u *Usage) {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) == nil {
		u.User, u.System = time.Duration(r.Utime.Nano()), time.Duration(r.Stime.Nano())
	}
	if data, err := os.ReadFile("/proc/self/io"); err == nil {
		u.DiskWritten, _ = field(data, "write_bytes:")
		u.CallWritten, _ = field(data, "wchar:")
	}
	if data, err := os.ReadFile("/proc/self/status"); err == nil {
		kb, _ := field(data, "VmRSS:")
		u.Memory = kb << 10
	}
	u.sent = sentBySocket()
	if data, err := os.ReadFile("/proc/stat"); err == nil {
		u.MachineBusy, u.MachineLost = machineTime(data)
	}
}

// Allocated is the room that a file takes on its disk: less than its size where it has holes.
func Allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// sentBySocket asks the kernel what went out of each TCP connection of this
// process, repetitions and all. The key is the socket's inode.
func sentBySocket() map[uint64]uint64 {
	sent := make(map[uint64]uint64)
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return sent
	}
	for _, f := range files {
		target, err := os.Readlink("/proc/self/fd/" + f.Name())
		if err != nil {
			continue // closed meanwhile
		}
		number, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
		fd, ferr := strconv.Atoi(f.Name())
		if err != nil || ferr != nil {
			continue
		}
		// It fails on other sockets than those of TCP, and for a listening one says nothing.
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			sent[inode] = info.Bytes_sent
		}
	}
	return sent
}

// field finds the number behind a name at the start of a line.
func field(data []byte, name string) (uint64, bool) {
	for line := range bytes.Lines(data) {
		rest, ok := bytes.CutPrefix(line, []byte(name))
		if !ok {
			continue
		}
		words := bytes.Fields(rest)
		if len(words) == 0 {
			return 0, false
		}
		n, err := strconv.ParseUint(string(words[0]), 10, 64)
		return n, err == nil
	}
	return 0, false
}

// machineTime adds up the first line of /proc/stat: user, nice, system, idle,
// iowait, irq, softirq, steal.
func machineTime(stat []byte) (busy, lost time.Duration) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	words := strings.Fields(string(line))
	if len(words) < 9 || words[0] != "cpu" {
		return 0, 0
	}
	for i, w := range words[1:9] {
		n, err := strconv.ParseInt(w, 10, 64)
		if err != nil {
			return 0, 0
		}
		switch i {
		case 3, 4: // idle, and idle while waiting for a disk
		case 7:
			lost = time.Duration(n) * clockTick
		default:
			busy += time.Duration(n) * clockTick
		}
	}
	return busy, lost
}

// PeakMemory is the largest resident set of this process since ResetPeak.
func PeakMemory() uint64 {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	kb, _ := field(data, "VmHWM:")
	return kb << 10
}

// ResetPeak begins a new peak of memory.
func ResetPeak() {
	// 5 resets VmHWM (proc(5)). Where it is refused, the peak is that of the process's life.
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

func readMachine(m *Machine, dir string) {
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.Processor = processorName(string(data))
	}
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		kb, _ := field(data, "MemTotal:")
		m.Memory = kb << 10
	}
	if data, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(data))
	}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		if words := strings.Fields(string(data)); len(words) > 0 {
			m.Load, _ = strconv.ParseFloat(words[0], 64)
		}
	}
	var st syscall.Statfs_t
	if syscall.Statfs(dir, &st) == nil {
		m.FileSystem = fileSystemName(int64(st.Type)) //nolint:unconvert // its type depends on the port
	}
}

func processorName(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func fileSystemName(magic int64) string {
	switch magic {
	case 0xEF53:
		return "ext4"
	case 0x58465342:
		return "xfs"
	case 0x9123683E:
		return "btrfs"
	case 0x01021994:
		return "tmpfs"
	case 0x794c7630:
		return "overlay"
	case 0x2fc12fc1:
		return "zfs"
	}
	return fmt.Sprintf("%#x", magic)
}

// preallocate reserves a file's blocks, where the file system can.
func preallocate(f *os.File, n int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, n)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.Truncate(n)
	}
	return err
}

func syncData(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }
