package netproxy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// ErrUnsupported: this system does not tell who holds a connection.
var ErrUnsupported = errors.New("the owner of a connection cannot be asked for: that needs Linux, its socket diagnostics and /proc")

// Processes knows the processes of the nodes, and finds out which of them holds
// an end of a connection. It needs no privileges for one's own children. The
// zero value is ready.
//
// It asks the kernel for the one socket: reading the table of all sockets
// (/proc/net/tcp) takes milliseconds each time, on a machine with nothing open.
type Processes struct {
	mu   sync.Mutex
	node map[int]Node // by process ID
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
	inode, err := socketInode(remote, local)
	if err != nil {
		return 0, err
	}
	if node, ok := p.holder("socket:[" + strconv.FormatUint(uint64(inode), 10) + "]"); ok {
		return node, nil
	}
	// It may have been closed just now.
	if _, err := socketInode(remote, local); err != nil {
		return 0, err
	}
	return 0, ErrStranger
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
