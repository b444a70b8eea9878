package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/load"
	"github.com/copycat-replication/copycat/bench/internal/wan"
)

// wanNode is a node's process, as the harness sees it.
type wanNode struct {
	host  *wan.Host
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
	id    string // NodeID
}

// wanCluster is one process for each host of an emulated network.
type wanCluster struct {
	net   *wan.Net
	nodes []*wanNode
}

func centerName(i int) string { return fmt.Sprintf("center%d", i+1) }

var errNodeGone = errors.New("node's process has ended")

// startWAN starts the nodes, and waits until all see all.
func startWAN(ctx context.Context, net *wan.Net, dir, log string, stderr io.Writer) (_ *wanCluster, err error) {
	c := &wanCluster{net: net}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for _, h := range net.Hosts() {
		n := &wanNode{host: h, cmd: exec.CommandContext(ctx, self)}
		n.cmd.Env, n.cmd.Stderr = append(os.Environ(), nodeVariable+"=1"), stderr
		if n.in, err = n.cmd.StdinPipe(); err != nil {
			return nil, err
		}
		out, err := n.cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := h.Start(n.cmd); err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, n)
		n.lines = bufio.NewScanner(out)
		n.lines.Buffer(nil, 16<<20)
		if err := c.startNode(n, dir, log); err != nil {
			return nil, fmt.Errorf("node %s: %w", h.Name, err)
		}
	}
	return c, c.await(ctx, "all nodes see all", func(all []nodeStatus) bool {
		return !slices.ContainsFunc(all, func(s nodeStatus) bool { return s.Alive < len(all) })
	})
}

func (c *wanCluster) startNode(n *wanNode, dir, log string) error {
	s := &nodeStart{Log: log}
	h, first := n.host, c.net.Hosts()[0]
	s.Config.Hostname, s.Config.BindAddress = h.Address.String(), h.Bind.String()
	s.Config.CopyCatPort, s.Config.GossipPort = int(h.StreamPort), int(h.GossipPort)
	s.Config.CopyCatDataDir = filepath.Join(dir, h.Name)
	s.Config.DataCenter, s.Config.Rack = centerName(h.Center), h.Name
	if h != first {
		s.Config.PeersToContact = []string{fmt.Sprintf("%s:%d", first.Address, first.GossipPort)}
	}
	_, err := n.ask(&nodeRequest{Do: "start", Start: s})
	return err
}

// ask sends a request and waits for its answer.
func (n *wanNode) ask(r *nodeRequest) (*nodeAnswer, error) {
	if err := json.NewEncoder(n.in).Encode(r); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", r.Do, errNodeGone, err)
	}
	if !n.lines.Scan() {
		return nil, errors.Join(fmt.Errorf("%s: %w", r.Do, errNodeGone), n.lines.Err())
	}
	var a nodeAnswer
	if err := json.Unmarshal(n.lines.Bytes(), &a); err != nil {
		return nil, fmt.Errorf("%s: answer %q: %w", r.Do, n.lines.Text(), err)
	}
	if a.Error != "" {
		return nil, fmt.Errorf("%s: %s", r.Do, a.Error)
	}
	return &a, nil
}

// askAll asks all nodes at the same moment.
func (c *wanCluster) askAll(request func(i int) *nodeRequest) ([]nodeAnswer, error) {
	answers, errs := make([]nodeAnswer, len(c.nodes)), make([]error, len(c.nodes))
	var asking sync.WaitGroup
	for i, n := range c.nodes {
		asking.Go(func() {
			a, err := n.ask(request(i))
			if err != nil {
				errs[i] = fmt.Errorf("node %s: %w", n.host.Name, err)
				return
			}
			answers[i] = *a
		})
	}
	asking.Wait()
	return answers, errors.Join(errs...)
}

// await looks at all nodes until they satisfy cond.
func (c *wanCluster) await(ctx context.Context, what string, cond func([]nodeStatus) bool) error {
	t := time.NewTicker(look)
	defer t.Stop()
	for deadline := time.Now().Add(askTimeout); ; {
		answers, err := c.askAll(func(int) *nodeRequest { return &nodeRequest{Do: "status"} })
		if err != nil {
			return err
		}
		all := make([]nodeStatus, 0, len(answers))
		for i := range answers {
			all = append(all, answers[i].Status)
			c.nodes[i].id = answers[i].Status.NodeID
		}
		if cond(all) {
			return nil
		}
		if time.Now().After(deadline) {
			return c.waited(what, all, context.DeadlineExceeded)
		}
		select {
		case <-ctx.Done():
			return c.waited(what, all, context.Cause(ctx))
		case <-t.C:
		}
	}
}

// waited says what was waited for in vain, and what each node said last.
func (c *wanCluster) waited(what string, all []nodeStatus, why error) error {
	said := make([]string, len(all))
	for i, s := range all {
		said[i] = fmt.Sprintf("%s sees %d of %d nodes, leader %q, %d voters", c.nodes[i].host.Name, s.Alive, len(all), s.Leader, len(s.Voters))
	}
	return fmt.Errorf("waited for %s: %w; %s", what, why, strings.Join(said, "; "))
}

// subscribe creates a structure and has all nodes subscribe; the first does so
// first, as a program does that makes it for the others.
func (c *wanCluster) subscribe(ctx context.Context, plan load.Plan) error {
	a, err := c.nodes[0].ask(&nodeRequest{Do: "create"})
	if err != nil {
		return err
	}
	if _, err := c.askAll(func(i int) *nodeRequest {
		return &nodeRequest{Do: "subscribe", Structure: a.Structure, Plan: plan, Index: i}
	}); err != nil {
		return err
	}
	return c.await(ctx, "a leader and three voters", func(all []nodeStatus) bool {
		return !slices.ContainsFunc(all, func(s nodeStatus) bool {
			return s.Leader == "" || len(s.Voters) < min(3, len(c.nodes))
		})
	})
}

// leader is the index of the node that leads the structure, -1 if none does.
func (c *wanCluster) leader() (int, error) {
	answers, err := c.askAll(func(int) *nodeRequest { return &nodeRequest{Do: "status"} })
	return slices.IndexFunc(answers, func(a nodeAnswer) bool { return a.Status.Role == "leader" }), err
}

// close ends the processes: they stop when their input ends, and the network
// kills those that do not.
func (c *wanCluster) close() {
	for _, n := range c.nodes {
		_ = n.in.Close()
	}
	late := time.AfterFunc(askTimeout, func() {
		for _, n := range c.nodes {
			_ = n.cmd.Process.Kill() // an error says that it has ended
		}
	})
	defer late.Stop()
	for _, n := range c.nodes {
		_ = n.cmd.Wait() // how it ended shows in its answers
	}
}
