package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/copycat-replication/copycat"
	"github.com/copycat-replication/copycat/bench/internal/load"
	"github.com/copycat-replication/copycat/bench/internal/measure"
	"github.com/copycat-replication/copycat/bench/internal/report"
)

// nodeVariable makes this program one node of a cluster of processes, told
// what to do by JSON lines on its standard input.
const nodeVariable = "COPYCAT_BENCH_NODE"

// What a node is asked, and answers. One request at a time.
type (
	nodeRequest struct {
		Do        string // start, create, subscribe, status, load, await, result, stop
		Start     *nodeStart
		Structure string
		Plan      load.Plan
		Index     int  // of the node among the plan's nodes
		Hold      bool // the answer does not wait for a load's end, which can be awaited; the node goes on until its result is asked for
	}
	nodeStart struct {
		Config struct {
			Hostname, BindAddress, CopyCatDataDir, DataCenter, Rack string
			CopyCatPort, GossipPort                                 int
			PeersToContact                                          []string
		}
		LAN bool   // the profile of gossip; otherwise that for data centers
		Log string // level; empty: none
	}
	nodeAnswer struct {
		Error     string
		Structure string
		Status    nodeStatus
		Result    report.Result
		// LeaderCenter is the data center of the structure's leader at the end of
		// a load; empty: there was none.
		LeaderCenter string
		Broken       uint64
		First        string
	}
	nodeStatus struct {
		NodeID, Gossip string
		Alive          int
		Role, Leader   string
		Voters         []string
		Commits        uint64
	}
)

// benchNode is the process's one node.
type benchNode struct {
	node  copycat.CopyCat
	id    *copycat.ID
	load  *load.Load
	plan  load.Plan
	index int
	sub   *subscriber
	// await waits for the end of the load, finish fills its result then; nil: there is none.
	await  func() error
	finish func(*nodeAnswer)

	done  chan struct{}
	serve sync.WaitGroup
}

// runNode answers until its input ends.
func runNode(in io.Reader, out io.Writer) int {
	n := &benchNode{done: make(chan struct{})}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	code := 0
	for lines.Scan() {
		var r nodeRequest
		var a nodeAnswer
		err := json.Unmarshal(lines.Bytes(), &r)
		if err == nil {
			err = n.do(&r, &a)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := json.NewEncoder(out).Encode(&a); err != nil {
			code = 1
			break
		}
	}
	n.stop()
	return code
}

var (
	errNotStarted = errors.New("node has not been started")
	errNoLoad     = errors.New("node has had no load whose result is held")
)

func (n *benchNode) do(r *nodeRequest, a *nodeAnswer) error {
	if r.Do == "start" {
		return n.start(r.Start)
	}
	if n.node == nil {
		return errNotStarted
	}
	switch r.Do {
	case "create":
		id, err := n.node.NewDataStructureID()
		if err != nil {
			return err
		}
		a.Structure = id.String()
		return nil
	case "subscribe":
		return n.subscribe(r)
	case "status":
		a.Status = n.status()
		return nil
	case "load":
		return n.run(r.Hold, a)
	case "result":
		if n.finish == nil {
			return errNoLoad
		}
		err := n.await()
		if err == nil {
			n.finish(a)
		}
		return err
	case "await":
		if n.await == nil {
			return errNoLoad
		}
		return n.await()
	case "stop":
		n.stop()
		if n.load != nil {
			o := n.load.Outcome()
			if a.Broken = o.Broken; o.FirstError != nil {
				a.First = o.FirstError.Error()
			}
		}
		return nil
	}
	return fmt.Errorf("request %q is not known", r.Do)
}

func (n *benchNode) start(s *nodeStart) error {
	cfg := copycat.DefaultConfig()
	c := &s.Config
	cfg.Hostname, cfg.BindAddress, cfg.CopyCatPort, cfg.GossipPort = c.Hostname, c.BindAddress, c.CopyCatPort, c.GossipPort
	cfg.CopyCatDataDir, cfg.DataCenter, cfg.Rack, cfg.PeersToContact = c.CopyCatDataDir, c.DataCenter, c.Rack, c.PeersToContact
	if cfg.Profile = copycat.WAN; s.LAN {
		cfg.Profile = copycat.LAN
	}
	if s.Log != "" {
		var level slog.Level
		if err := level.UnmarshalText([]byte(s.Log)); err != nil {
			return fmt.Errorf("log: %w", err)
		}
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("node", c.DataCenter+"/"+c.Rack)
	}
	node, err := copycat.NewCopyCat(cfg)
	n.node = node
	return err
}

// subscribe takes part in a structure, as the plan's node number Index.
func (n *benchNode) subscribe(r *nodeRequest) error {
	id, err := copycat.ParseID(r.Structure)
	if err != nil {
		return err
	}
	n.id, n.plan, n.index = id, r.Plan, r.Index
	n.load = load.New(r.Plan)
	consumer := n.load.Consumer(r.Index, 0)
	propose, commits, errs, consume, err := n.node.SubscribeToDataStructure(n.id, func() ([]byte, error) { return consumer.Snapshot(), nil })
	if err != nil {
		return err
	}
	n.sub = &subscriber{propose: propose, consumer: consumer}
	c := &cluster{load: n.load, done: n.done}
	n.serve.Go(func() { c.apply(n.sub, commits, consume) })
	n.serve.Go(func() { c.listen(n.sub, errs) })
	return nil
}

func (n *benchNode) status() nodeStatus {
	st := n.node.Status()
	s := nodeStatus{NodeID: st.NodeID, Gossip: st.GossipAddress, Alive: alive(&st)}
	for i := range st.Structures {
		if x := &st.Structures[i]; n.id != nil && x.ID == *n.id {
			s.Role, s.Leader, s.Voters, s.Commits = x.Role, x.Leader, x.Voters, x.Commits
		}
	}
	return s
}

// run loads the structure from this node alone.
func (n *benchNode) run(hold bool, a *nodeAnswer) error {
	var before, after measure.Usage
	var peak uint64
	var leader string
	var err error
	ended := make(chan struct{})
	go func() { // ends with the load, or with the process
		defer close(ended)
		err = n.load.Run(context.Background(), n, load.Hooks{
			Start: func() { before = measure.Read() },
			End: func() {
				after, peak = measure.Read(), measure.PeakMemory()
				leader = n.leaderCenter()
			},
		})
	}()
	n.await = func() error {
		<-ended
		return err
	}
	n.finish = func(a *nodeAnswer) {
		n.stop() // the consumers have no locks
		a.LeaderCenter, a.Result.Plan = leader, n.plan
		a.Result.Add(n.load.Outcome(), after.Since(before), after.At.Sub(before.At), peak)
	}
	if hold {
		return nil
	}
	if err := n.await(); err != nil {
		return err
	}
	n.finish(a)
	return nil
}

// leaderCenter finds where the leader is.
func (n *benchNode) leaderCenter() string {
	st, own := n.node.Status(), n.status()
	for _, x := range st.Nodes {
		if x.NodeID == own.Leader {
			return x.DataCenter
		}
	}
	return ""
}

// Leader puts the proposer here.
func (n *benchNode) Leader(int) (int, error) { return n.index, nil }

// Propose sends on the subscription's propose channel.
func (n *benchNode) Propose(_, _ int, payload []byte) error {
	select {
	case n.sub.propose <- payload:
		return nil
	case <-n.done:
		return copycat.ErrClosed
	}
}

// Close does nothing: the node outlives the load.
func (n *benchNode) Close() error { return nil }

func (n *benchNode) stop() {
	select {
	case <-n.done:
		return
	default:
	}
	close(n.done)
	if n.node != nil {
		n.node.Shutdown()
	}
	n.serve.Wait()
}

// askTimeout bounds what a node may take for anything but a load.
const askTimeout = 2 * time.Minute
