package procrig

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/copycat-replication/copycat/internal/netproxy"
)

// Errors of calls to a node.
var (
	// ErrGone: the node's process has ended, or is not started.
	ErrGone = errors.New("process is gone")
	// ErrNoAnswer: it did not answer in time.
	ErrNoAnswer = errors.New("process does not answer")
)

// RemoteError is an error that a node answered with.
type RemoteError struct {
	Text string
	Is   string // name of a documented error, such as DiskFull; may be empty
}

// Error returns the text.
func (e *RemoteError) Error() string { return e.Text }

// Node is one node of a rig: a place with addresses and a directory, in which
// processes come and go. Its methods are for the test's goroutine.
type Node struct {
	rig        *Rig
	Number     uint16
	DataCenter string
	// Dir is its data directory. A test may change it before the first start.
	Dir string
	// Binary is what its next processes run, and Env what they find in their
	// environment beside the rig's own. Empty: this test binary.
	Binary string
	Env    []string
	// JoinTimeout is Config.JoinTimeout of its next processes. Default one minute.
	JoinTimeout time.Duration
	ID          string // NodeID of the last process that started
	front       address
	back        address

	process *process
	lives   uint32
	started bool // there was a process on this directory
	stopped bool // by SIGSTOP
	subs    []*Subscription
	nextSub uint32
}

// address is where a node can be reached.
type address struct {
	ip              string
	copycat, gossip uint16
}

// process is one life of a node.
type process struct {
	cmd    *exec.Cmd
	number uint32
	stdin  io.WriteCloser
	log    *os.File

	ended chan struct{} // closed: it has ended, and err is set
	err   error

	mu     sync.Mutex
	next   int
	calls  map[int]chan reply
	closed bool
}

// spawn runs the test binary again.
func (n *Node) spawn() (*process, error) {
	n.lives++
	p := &process{number: n.lives, ended: make(chan struct{}), calls: make(map[int]chan reply)}
	var err error
	if p.log, err = os.Create(n.rig.logFile(n.Number, p.number)); err != nil {
		return nil, err
	}
	binary := n.Binary
	if binary == "" {
		if binary, err = os.Executable(); err != nil {
			return nil, errors.Join(err, p.log.Close())
		}
	}
	p.cmd = exec.Command(binary) //nolint:gosec // ourselves
	// The race detector waits for a second at each exit, by default.
	race := "GORACE=" + os.Getenv("GORACE") + " atexit_sleep_ms=10"
	p.cmd.Env = append(append(os.Environ(), n.Env...), childVariable+"=1", race)
	p.cmd.Stderr = p.log
	p.cmd.WaitDelay = 5 * time.Second
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, errors.Join(err, p.log.Close())
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, p.log.Close())
	}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, p.log.Close())
	}
	n.rig.who.Add(p.cmd.Process.Pid, netproxy.Node(n.Number))
	go p.serve(out, func() { n.rig.who.Remove(p.cmd.Process.Pid) })
	return p, nil
}

// serve routes the replies, until the process ends. Whoever ends the process
// waits for ended.
func (p *process) serve(out io.Reader, gone func()) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var r reply
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // what a dying runtime prints
		}
		p.mu.Lock()
		ch := p.calls[r.Number]
		delete(p.calls, r.Number)
		p.mu.Unlock()
		if ch != nil {
			ch <- r
		}
	}
	gone()
	err := p.cmd.Wait()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.err = errors.Join(err, p.log.Close())
	close(p.ended)
}

// call asks the process, and decodes the answer into result, which may be nil.
func (p *process) call(do string, with, result any, patience time.Duration) error {
	data, err := json.Marshal(with)
	if err != nil {
		return err
	}
	ch := make(chan reply, 1)
	p.mu.Lock()
	p.next++
	r := request{Number: p.next, Do: do, With: data}
	line, err := json.Marshal(r)
	if err != nil || p.closed {
		p.mu.Unlock()
		return fmt.Errorf("%s: %w", do, errors.Join(ErrGone, err))
	}
	p.calls[r.Number] = ch
	_, err = p.stdin.Write(append(line, '\n')) // small: fits the pipe of a stopped process too
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w: %w", do, ErrGone, err)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case a := <-ch:
		return a.decode(do, result)
	case <-p.ended:
		select {
		case a := <-ch:
			return a.decode(do, result)
		default:
			return fmt.Errorf("%s: %w: %w", do, ErrGone, p.err)
		}
	case <-timer.C:
		p.mu.Lock()
		delete(p.calls, r.Number)
		p.mu.Unlock()
		return fmt.Errorf("%s: %w within %s", do, ErrNoAnswer, patience)
	}
}

func (a *reply) decode(do string, result any) error {
	if a.Error != "" {
		return fmt.Errorf("%s: %w", do, &RemoteError{a.Error, a.Is})
	}
	if result == nil || len(a.Result) == 0 {
		return nil
	}
	return json.Unmarshal(a.Result, result)
}

// callPatience is how long an ordinary call may take.
const callPatience = 2 * time.Minute

func (n *Node) call(do string, with, result any) error {
	if n.process == nil {
		return fmt.Errorf("node %d: %s: %w", n.Number, do, ErrGone)
	}
	if err := n.process.call(do, with, result, callPatience); err != nil {
		return fmt.Errorf("node %d: %w", n.Number, err)
	}
	return nil
}

// TryStart starts the node, and returns the error that its process gave. After
// an error there is no process.
func (n *Node) TryStart() error {
	r := n.rig
	p, err := n.spawn()
	if err != nil {
		return err
	}
	n.process = p
	q := startRequest{
		Hostname: n.front.ip, BindAddress: n.back.ip, CopyCatPort: int(n.front.copycat), GossipPort: int(n.front.gossip),
		DataDir: n.Dir, DataCenter: n.DataCenter, JoinTimeout: cmp.Or(n.JoinTimeout, time.Minute).String(), SnapshotEntries: r.opt.SnapshotEntries,
		ReplaceAfter: r.opt.ReplaceAfter, History: r.historyFile(n.Number, p.number), Stalls: r.stallsFile(n.Number, p.number), Node: n.Number, Process: p.number,
	}
	if n.Number != 1 || n.lives > 1 { // the first one starts the cluster
		for _, o := range r.Nodes {
			if o != n {
				q.Peers = append(q.Peers, fmt.Sprintf("%s:%d", o.front.ip, o.front.gossip))
			}
		}
	}
	var st State
	if err := p.call("start", q, &st, callPatience); err != nil {
		n.end()
		return fmt.Errorf("node %d: %w", n.Number, err)
	}
	r.recorder.Start(n.Number, p.number)
	n.ID, n.started, n.stopped = st.NodeID, true, false
	return nil
}

// Start starts the node; its subscriptions are to be made anew.
func (n *Node) Start() {
	n.rig.t.Helper()
	if err := n.TryStart(); err != nil {
		n.rig.t.Fatalf("start: %v", err)
	}
}

// Alive reports whether there is a process.
func (n *Node) Alive() bool { return n.process != nil }

// Kill ends the process with SIGKILL, by its own ID.
func (n *Node) Kill() {
	n.rig.t.Helper()
	if n.process == nil {
		return
	}
	n.rig.t.Logf("kill -9 node %d, process %d", n.Number, n.process.number)
	n.end()
	n.rig.recorder.Crash(n.Number, n.lives)
	n.subs = nil
}

// end kills the process, if there is one, and waits for its end.
func (n *Node) end() {
	p := n.process
	if p == nil {
		return
	}
	select {
	case <-p.ended:
	default:
		_ = p.cmd.Process.Kill() // it may end at this moment
		<-p.ended
	}
	_ = p.stdin.Close()
	n.process, n.stopped = nil, false
}

// Stop stops the process with SIGSTOP.
func (n *Node) Stop() {
	n.rig.t.Helper()
	n.signal(syscall.SIGSTOP)
	n.stopped = true
	n.rig.recorder.FaultStart(fmt.Sprintf("SIGSTOP of node %d", n.Number))
}

// Continue lets a stopped process go on.
func (n *Node) Continue() {
	n.rig.t.Helper()
	if !n.stopped {
		return
	}
	n.signal(syscall.SIGCONT)
	n.stopped = false
	n.rig.recorder.FaultStop(fmt.Sprintf("SIGSTOP of node %d", n.Number))
}

func (n *Node) signal(s syscall.Signal) {
	n.rig.t.Helper()
	if n.process == nil {
		n.rig.t.Fatalf("node %d has no process", n.Number)
	}
	if err := n.process.cmd.Process.Signal(s); err != nil {
		n.rig.t.Fatalf("node %d: %s: %v", n.Number, s, err)
	}
}

// Wipe removes the data directory of a node that was killed.
func (n *Node) Wipe() {
	n.rig.t.Helper()
	if n.process != nil {
		n.rig.t.Fatalf("node %d runs", n.Number)
	}
	if err := os.RemoveAll(n.Dir); err != nil {
		n.rig.t.Fatal(err)
	}
	n.rig.recorder.Wipe(n.Number, n.lives)
	n.started = false
}

// Shutdown ends the node in order.
func (n *Node) Shutdown() {
	n.rig.t.Helper()
	if n.process == nil {
		return
	}
	if err := n.process.call("shutdown", nil, nil, callPatience); err != nil {
		n.rig.t.Errorf("node %d: %v", n.Number, err)
	}
	n.awaitExit(callPatience)
}

// Terminate ends the node in order with SIGTERM, as a service manager does.
func (n *Node) Terminate() {
	n.rig.t.Helper()
	n.signal(syscall.SIGTERM)
	n.awaitExit(callPatience)
}

// Leave has the node leave its cluster, and gives it some time for that. Its
// subscriptions end in any case. Without an error its process has ended, by
// itself and with success, when Leave returns, and the node is not started
// again by [Rig.Finish].
func (n *Node) Leave(within time.Duration) error {
	n.rig.t.Helper()
	if n.process == nil {
		return fmt.Errorf("node %d: leave: %w", n.Number, ErrGone)
	}
	err := n.process.call("leave", leaveRequest{Within: within.String()}, nil, within+callPatience)
	n.subs = nil
	if err != nil {
		return fmt.Errorf("node %d: %w", n.Number, err)
	}
	n.awaitExit(callPatience)
	n.started = false
	return nil
}

// Log is what its last process has logged so far.
func (n *Node) Log() string {
	n.rig.t.Helper()
	text, err := os.ReadFile(n.rig.logFile(n.Number, n.lives))
	if err != nil {
		n.rig.t.Fatal(err)
	}
	return string(text)
}

// awaitExit waits until the process has ended by itself, which must be without
// an error.
func (n *Node) awaitExit(patience time.Duration) {
	n.rig.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case <-n.process.ended:
		if n.process.err != nil {
			n.rig.t.Errorf("node %d ended with %v", n.Number, n.process.err)
		}
	case <-ctx.Done():
		n.rig.t.Errorf("node %d does not end", n.Number)
	}
	n.end()
	n.subs = nil
}

// Status asks the node for its status.
func (n *Node) Status() (State, error) {
	var st State
	err := n.call("status", nil, &st)
	return st, err
}
