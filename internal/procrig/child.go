package procrig

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/copycat-replication/copycat"
	"github.com/copycat-replication/copycat/internal/history"
)

// childVariable tells the test binary that it is a node.
const childVariable = "COPYCAT_PROCRIG_CHILD"

// Child runs a node if this process was started as one: TestMain calls it
// first, and ends the process with the code if isChild.
func Child() (code int, isChild bool) {
	if os.Getenv(childVariable) == "" {
		return 0, false
	}
	c := &child{out: os.Stdout, subs: make(map[uint32]*subscriber), left: make(chan struct{})}
	if err := c.serve(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1, true
	}
	return 0, true
}

// child is one node in a process of its own.
type child struct {
	requests sync.WaitGroup

	outMu sync.Mutex
	out   io.Writer

	mu       sync.Mutex
	node     copycat.CopyCat
	recorder *history.Recorder
	file     *os.File
	subs     map[uint32]*subscriber
	ended    error // of shutdown
	shut     sync.Once
	left     chan struct{} // closed: the node has left its cluster

	unwatch context.CancelFunc // ends the watch of stalls
	watched chan error
}

// errNotStarted: the node was not started yet.
var errNotStarted = errors.New("node is not started")

// serve answers requests until "shutdown" or SIGTERM, until the node has left
// its cluster, or until nobody is there any more to ask.
func (c *child) serve(in io.Reader) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	defer signal.Stop(term)
	requests, gone := make(chan request), make(chan error, 1)
	go func() { gone <- read(in, requests) }() // ends with its input, or with this process
	for {
		select {
		case r := <-requests:
			if r.Do == "shutdown" {
				err := c.shutdown()
				c.requests.Wait()
				c.reply(r, nil, err)
				return nil
			}
			c.requests.Go(func() {
				result, err := c.do(r)
				c.reply(r, result, err)
			})
		case <-term:
			err := c.shutdown()
			c.requests.Wait()
			return err
		case <-c.left:
			c.requests.Wait()
			return c.shutdown()
		case err := <-gone:
			err = errors.Join(err, c.shutdown())
			c.requests.Wait()
			return err
		}
	}
}

// read hands on what the rig asks for.
func read(in io.Reader, requests chan<- request) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("request %q: %w", lines.Text(), err)
		}
		requests <- r
	}
	return lines.Err()
}

func (c *child) do(r request) (any, error) {
	switch r.Do {
	case "start":
		return with(r, c.start)
	case "subscribe":
		return with(r, c.subscribe)
	case "load":
		return with(r, func(q loadRequest) (any, error) {
			s, err := c.subscriber(q.Subscription)
			if err != nil {
				return nil, err
			}
			return nil, s.load(q)
		})
	case "propose":
		return with(r, func(q proposeRequest) (any, error) {
			s, err := c.subscriber(q.Subscription)
			if err != nil {
				return nil, err
			}
			return nil, s.proposeMany(q.Count, q.Size)
		})
	case "state":
		return with(r, func(q numberRequest) (any, error) {
			s, err := c.subscriber(q.Subscription)
			if err != nil {
				return nil, err
			}
			return s.state(), nil
		})
	case "unsubscribe":
		return with(r, func(q numberRequest) (any, error) {
			s, err := c.subscriber(q.Subscription)
			if err != nil {
				return nil, err
			}
			s.unsubscribe()
			return nil, nil
		})
	case "allocate":
		return with(r, c.allocate)
	case "leave":
		return with(r, c.leave)
	case "status":
		return c.status()
	}
	return nil, fmt.Errorf("unknown request %q", r.Do)
}

// with decodes what a request comes with.
func with[T any](r request, f func(T) (any, error)) (any, error) {
	var q T
	if err := json.Unmarshal(r.With, &q); err != nil {
		return nil, fmt.Errorf("request %s: %w", r.Do, err)
	}
	return f(q)
}

func (c *child) reply(r request, result any, err error) {
	a := reply{Number: r.Number}
	if err != nil {
		a.Error, a.Is = err.Error(), sentinel(err)
	}
	if result != nil {
		data, err := json.Marshal(result)
		if err != nil {
			a.Error = err.Error()
		}
		a.Result = data
	}
	line, err := json.Marshal(a)
	if err != nil {
		line = fmt.Appendf(nil, `{"n":%d,"error":"reply cannot be encoded"}`, r.Number)
	}
	c.outMu.Lock()
	defer c.outMu.Unlock()
	// An error means that the rig is gone: the end of standard input says so too.
	_, _ = c.out.Write(append(line, '\n'))
}

// sentinel names the documented error that err is.
func sentinel(err error) string {
	if left := (*copycat.LeaveError)(nil); errors.As(err, &left) {
		return NotLeft
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return s.name
		}
	}
	return ""
}

// The names under which documented errors travel.
const (
	DiskFull           = "disk full"
	StorageFailed      = "storage failed"
	NoCluster          = "no cluster"
	CatalogUnavailable = "catalog unavailable"
	Closed             = "closed"
	NotLeft            = "not left" // *copycat.LeaveError
	DataDir            = "data directory"
	Locked             = "locked"
	OtherVersion       = "other version"
	NewerFormat        = "newer format"
)

// sentinels are in order: the narrow ones before those that they come wrapped in.
var sentinels = []struct {
	name string
	err  error
}{
	{DiskFull, copycat.ErrDiskFull}, {StorageFailed, copycat.ErrStorageFailed}, {OtherVersion, copycat.ErrOtherVersion}, {NewerFormat, copycat.ErrNewerFormat}, {NoCluster, copycat.ErrNoCluster},
	{CatalogUnavailable, copycat.ErrCatalogUnavailable}, {Closed, copycat.ErrClosed}, {Locked, copycat.ErrLocked}, {DataDir, copycat.ErrDataDir},
}

func (c *child) start(q startRequest) (any, error) {
	join, err := time.ParseDuration(q.JoinTimeout)
	if err != nil {
		return nil, err
	}
	var replaceAfter time.Duration
	if q.ReplaceAfter != "" {
		if replaceAfter, err = time.ParseDuration(q.ReplaceAfter); err != nil {
			return nil, err
		}
	}
	file, err := os.OpenFile(q.History, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	stalls, err := os.OpenFile(q.Stalls, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	node, err := copycat.NewCopyCat(&copycat.Config{
		Hostname: q.Hostname, BindAddress: q.BindAddress, CopyCatPort: q.CopyCatPort, GossipPort: q.GossipPort,
		CopyCatDataDir: q.DataDir, PeersToContact: q.Peers, DataCenter: q.DataCenter, JoinTimeout: join, ReplaceAfter: replaceAfter,
		SnapshotEntries: q.SnapshotEntries, Profile: copycat.Local,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})),
	})
	if err != nil {
		return nil, errors.Join(err, file.Close(), stalls.Close())
	}
	ctx, unwatch := context.WithCancel(context.Background())
	watched := make(chan error, 1)
	go func() { watched <- errors.Join(watchStalls(ctx, stalls), stalls.Close()) }() // shutdown waits for it
	c.mu.Lock()
	c.node, c.file, c.recorder = node, file, history.NewRecorder(time.Now, file)
	c.unwatch, c.watched = unwatch, watched
	c.mu.Unlock()
	return c.status()
}

func (c *child) started() (copycat.CopyCat, *history.Recorder, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.node == nil {
		return nil, nil, errNotStarted
	}
	return c.node, c.recorder, nil
}

func (c *child) allocate(q allocateRequest) (any, error) {
	node, _, err := c.started()
	if err != nil {
		return nil, err
	}
	made, err := node.AllocateNewDataStructure(copycat.WithVoters(q.Voters))
	if err != nil {
		return nil, err
	}
	return made.String(), nil
}

func (c *child) subscribe(q subscribeRequest) (any, error) {
	node, recorder, err := c.started()
	if err != nil {
		return nil, err
	}
	journal, err := recorder.Open(q.Subscriber)
	if err != nil {
		return nil, err
	}
	journal.Pad(q.Padding)
	s, err := newSubscriber(node, q.ID, journal)
	if err != nil {
		journal.Close(history.Abandoned)
		return nil, err
	}
	c.mu.Lock()
	c.subs[q.Subscriber.Number] = s
	c.mu.Unlock()
	return nil, nil
}

func (c *child) subscriber(number uint32) (*subscriber, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.subs[number]
	if s == nil {
		return nil, fmt.Errorf("no subscription %d", number)
	}
	return s, nil
}

// leave has the node leave its cluster, after its programs have stopped to
// propose. Its subscriptions end as by Shutdown, and so they do if it did not
// get to leave.
func (c *child) leave(q leaveRequest) (any, error) {
	node, _, err := c.started()
	if err != nil {
		return nil, err
	}
	patience, err := time.ParseDuration(q.Within)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c.mu.Lock()
	subs := slices.Collect(maps.Values(c.subs))
	c.mu.Unlock()
	for _, s := range subs {
		s.halt()
	}
	if err := node.Leave(ctx); err != nil {
		for _, s := range subs {
			<-s.done
			s.journal.Close(history.ShutDown)
		}
		return nil, err
	}
	close(c.left) // it leaves once: a second call has an error
	return nil, nil
}

// shutdown ends the node, and notes how its subscriptions ended. A second call
// does nothing.
func (c *child) shutdown() error {
	c.shut.Do(func() { c.ended = c.end() })
	return c.ended
}

func (c *child) end() error {
	c.mu.Lock()
	node, recorder, file := c.node, c.recorder, c.file
	subs := slices.Collect(maps.Values(c.subs))
	c.mu.Unlock()
	if node == nil {
		return nil
	}
	for _, s := range subs {
		s.halt()
	}
	node.Shutdown()
	for _, s := range subs {
		<-s.done
		s.journal.Close(history.ShutDown) // does nothing where it was unsubscribed
	}
	c.unwatch()
	return errors.Join(recorder.Err(), file.Close(), <-c.watched)
}

func (c *child) status() (any, error) {
	node, _, err := c.started()
	if err != nil {
		return nil, err
	}
	st := node.Status()
	s := State{NodeID: st.NodeID, ClusterID: st.ClusterID, Incarnation: st.Incarnation, Leaving: st.Leaving, Goroutines: runtime.NumGoroutine()}
	if st.Storage != nil {
		s.Storage, s.StorageIs = st.Storage.Error(), sentinel(st.Storage)
	}
	for _, n := range st.Nodes {
		if n.Alive {
			s.Alive++
		}
	}
	for _, g := range st.Structures {
		x := StructureState{
			ID: g.ID.String(), Role: g.Role, ReplicaID: g.ReplicaID, Leader: g.Leader, Voters: g.Voters, Learners: g.Learners, Commit: g.Commit, Applied: g.Applied,
			Commits: g.Commits, Snapshot: g.Snapshot, Sessions: g.Sessions, Interactive: g.Interactive, Catalog: g.Catalog, Waits: g.Waits,
		}
		x.Members = make(map[uint64]bool)
		for _, m := range g.Members {
			x.Members[m.ReplicaID] = m.Voter
		}
		if g.LastError != nil {
			x.LastError = g.LastError.Error()
		}
		s.Structures = append(s.Structures, x)
	}
	for _, a := range st.SetAside {
		s.SetAside = append(s.SetAside, fmt.Sprintf("%s replica %d: %s, %s at %d", a.ID, a.ReplicaID, a.Why, a.File, a.Offset))
	}
	return s, nil
}
