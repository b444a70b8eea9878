package netproxy

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// ErrUnsupported: this system does not tell who holds a connection.
var ErrUnsupported = errors.New("netproxy: needs Linux's /proc")

// Processes knows the processes of the nodes, and finds out which of them holds
// an end of a connection. It reads Linux's /proc and needs no privileges for
// one's own children. The zero value is ready.
type Processes struct {
	mu   sync.Mutex
	node map[int]Node // by process ID
}

// Supported returns nil where Owner can work, and ErrUnsupported elsewhere.
func Supported() error {
	if _, err := os.Stat("/proc/self/net/tcp"); runtime.GOOS != "linux" || err != nil {
		return ErrUnsupported
	}
	return nil
}

// Add says that a process is a node.
func (p *Processes) Add(pid int, node Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node == nil {
		p.node = make(map[int]Node)
	}
	p.node[pid] = node
}

// Remove forgets a process.
func (p *Processes) Remove(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.node, pid)
}

// Owner is Config.Owner.
func (p *Processes) Owner(remote, local netip.AddrPort) (Node, error) {
	// The kernel's table is not read in one piece, and may leave one out.
	var err error
	for range 3 {
		inode, ok := socketInode(remote, local)
		if !ok {
			err = ErrOrphan
			continue
		}
		if node, ok := p.holder("socket:[" + strconv.FormatUint(inode, 10) + "]"); ok {
			return node, nil
		}
		err = ErrStranger
	}
	return 0, err
}

// holder finds the process that holds a socket.
func (p *Processes) holder(socket string) (Node, bool) {
	p.mu.Lock()
	nodes := maps.Clone(p.node)
	p.mu.Unlock()
	for pid, node := range nodes {
		if holds(pid, socket) {
			return node, true
		}
	}
	return 0, false
}

func holds(pid int, link string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		return false // it has ended
	}
	for _, f := range files {
		if to, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && to == link {
			return true
		}
	}
	return false
}

// socketInode finds the IPv4 socket with these ends.
func socketInode(local, remote netip.AddrPort) (uint64, bool) {
	f, err := os.Open("/proc/self/net/tcp")
	if err != nil {
		return 0, false
	}
	defer f.Close()
	want := [2]string{kernelAddress(local), kernelAddress(remote)}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// sl local remote state queues timer retransmits uid timeout inode
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[1] != want[0] || fields[2] != want[1] {
			continue
		}
		inode, err := strconv.ParseUint(fields[9], 10, 64)
		return inode, err == nil && inode != 0
	}
	return 0, false
}

// kernelAddress writes an address as the kernel's table does: the bytes of the
// address as one number of the machine's own order, and the port.
func kernelAddress(a netip.AddrPort) string {
	ip := a.Addr().As4()
	var b [6]byte
	binary.BigEndian.PutUint32(b[:], binary.NativeEndian.Uint32(ip[:]))
	binary.BigEndian.PutUint16(b[4:], a.Port())
	text := strings.ToUpper(hex.EncodeToString(b[:]))
	return text[:8] + ":" + text[8:]
}
