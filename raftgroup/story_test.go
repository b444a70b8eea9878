package raftgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/copycat-replication/copycat/id"
)

// TestStories plays testdata/stories: what has bitten others, told command by
// command with what the production code answers. After a change that is meant
// to change what they say: go test ./raftgroup -run TestStories -rewrite, and
// read the difference.
func TestStories(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/stories/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("stories: %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			tell := &teller{}
			datadriven.RunTest(t, file, tell.command)
			if tell.s != nil {
				tell.s.finish()
			}
		})
	}
}

// teller carries out the commands of one story.
type teller struct {
	s   *stage
	out strings.Builder

	dropped []string // batches in a row that did not count, not told yet
}

func (tl *teller) say(format string, args ...any) { fmt.Fprintf(&tl.out, format+"\n", args...) }

// words are the arguments of a command that are not of the form key=value, each
// with how often it stands there: x*3 is x1 x2 x3.
func words(d *datadriven.TestData) []string {
	var out []string
	for _, a := range d.CmdArgs {
		if len(a.Vals) > 0 {
			continue
		}
		base, times, many := strings.Cut(a.Key, "*")
		n, err := strconv.Atoi(times)
		if !many || err != nil {
			out = append(out, a.Key)
			continue
		}
		for i := range n {
			out = append(out, fmt.Sprint(base, i+1))
		}
	}
	return out
}

// padded makes payloads of bytes=N, as they are delivered: the words, and dots.
func padded(t testing.TB, d *datadriven.TestData, ws []string) []string {
	size := number(t, d, "bytes", 0)
	for i, w := range ws {
		ws[i] = w + strings.Repeat(".", max(size-len(w), 0))
	}
	return ws
}

// value is the argument key=value, or otherwise.
func value(d *datadriven.TestData, key, otherwise string) string {
	for _, a := range d.CmdArgs {
		if a.Key == key && len(a.Vals) > 0 {
			return strings.Join(a.Vals, " ")
		}
	}
	return otherwise
}

func number(t testing.TB, d *datadriven.TestData, key string, otherwise int) int {
	n, err := strconv.Atoi(value(d, key, strconv.Itoa(otherwise)))
	if err != nil {
		d.Fatalf(t, "%s: %v", key, err)
	}
	return n
}

func duration(t testing.TB, d *datadriven.TestData, text string) time.Duration {
	v, err := time.ParseDuration(text)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return v
}

// node finds the node that the first word names.
func (tl *teller) node(t testing.TB, d *datadriven.TestData, text string) *stageNode {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > len(tl.s.nodes) {
		d.Fatalf(t, "no node %q", text)
	}
	return tl.s.nodes[n-1]
}

func (tl *teller) player(t testing.TB, d *datadriven.TestData, name string) *player {
	for _, p := range tl.s.players {
		if p.name == name {
			return p
		}
	}
	d.Fatalf(t, "no subscriber %q", name)
	return nil
}

func (tl *teller) command(t *testing.T, d *datadriven.TestData) string {
	tl.out.Reset()
	if d.Cmd != "cluster" && tl.s == nil {
		d.Fatalf(t, "a story begins with a cluster")
	}
	if tl.s != nil {
		tl.s.t = t
	}
	if err := tl.do(t, d); err != nil {
		tl.say("error: %v", err)
	}
	if tl.out.Len() == 0 {
		return "ok\n"
	}
	return tl.out.String()
}

func (tl *teller) do(t *testing.T, d *datadriven.TestData) error {
	s, w := tl.s, words(d)
	if len(w) == 0 {
		w = []string{""}
	}
	switch d.Cmd {
	case "cluster":
		return tl.cluster(t, d)
	case "subscribe":
		return tl.subscribe(t, d, w[0])
	case "unsubscribe":
		tl.player(t, d, w[0]).m.Leave()
		s.settle()
	case "propose":
		return tl.propose(tl.player(t, d, w[0]), padded(t, d, w[1:]))
	case "bursts": // each proposal by itself
		for _, one := range padded(t, d, w[1:]) {
			if err := tl.propose(tl.player(t, d, w[0]), []string{one}); err != nil {
				return err
			}
		}
	case "read":
		return tl.read(t, d, tl.player(t, d, w[0]))
	case "errors":
		tl.errors(tl.player(t, d, w[0]))
	case "window":
		p := tl.player(t, d, w[0]).m.s.prop
		tl.say("%d open, %d of them sent; settled up to %d; attempt %d", len(p.window), p.sent, p.settled, p.attempt)
	case "provider":
		tl.player(t, d, w[0]).fails = w[1] == "fails"
	case "pass":
		s.pass(duration(t, d, w[0]))
	case "settle":
		s.settle()
	case "log":
		return tl.log(t, d)
	case "sessions":
		return tl.sessions(tl.node(t, d, value(d, "on", "1")))
	case "members":
		return tl.members(tl.node(t, d, value(d, "on", "1")))
	case "snapshot":
		return tl.snapshot(tl.node(t, d, value(d, "on", "1")))
	case "hold", "release", "lose", "held", "cut", "heal":
		tl.network(t, d)
	case "pin":
		for _, p := range s.heldParcels() {
			p.pinned = true
		}
		s.holds = nil
		s.settle()
	case "reclaim":
		return tl.reclaim(tl.node(t, d, w[0]))
	case "rest":
		return tl.rest()
	case "fill":
		return tl.fill(tl.node(t, d, w[0]), number(t, d, "bytes", 100_000))
	case "vote":
		return tl.vote(tl.node(t, d, value(d, "on", "1")))
	case "candidate":
		return tl.candidate(t, d)
	case "damage":
		tl.damage(tl.node(t, d, value(d, "on", "1")))
	case "crash", "start", "disk":
		return tl.power(t, d, tl.node(t, d, w[0]), w[1:])
	case "stop", "continue":
		tl.node(t, d, w[0]).stops = d.Cmd == "stop"
		s.settle()
	case "elect":
		return tl.elect(tl.node(t, d, w[0]))
	case "leader":
		tl.leader(value(d, "besides", ""))
	case "join":
		n := tl.node(t, d, w[0])
		if err := n.host.Join(s.genesis.Group.Structure, id.Node{}); err != nil {
			return err
		}
		s.settle()
	case "inject":
		return tl.inject(t, d, w)
	default:
		d.Fatalf(t, "no such command")
	}
	return nil
}

// cluster starts the nodes, and has the group born. Node 1 leads.
func (tl *teller) cluster(t *testing.T, d *datadriven.TestData) error {
	if tl.s != nil {
		tl.s.finish()
	}
	tl.s = newStage(t, number(t, d, "nodes", 3))
	s := tl.s
	natural := value(d, "elections", "") == "natural"
	s.segment = int64(number(t, d, "segment", 256<<10))
	s.tune = func(c *Config) {
		c.CompactionTail = uint64(number(t, d, "tail", 1024))
		if natural {
			c.ElectionTicks = 0 // the default
		}
	}
	for _, n := range s.nodes {
		if err := n.start(); err != nil {
			return err
		}
	}
	voters := number(t, d, "voters", len(s.nodes))
	g := Genesis{
		Group: id.Group{Structure: id.Structure{7}}, Token: Token{1}, Members: make(map[id.Replica]id.Node),
		Options: Options{Voters: uint32(voters), SnapshotEntries: uint64(number(t, d, "snapshot-every", 0))},
	}
	for i, n := range s.nodes[:voters] {
		g.Members[id.Replica(i+1)] = n.id
	}
	if err := s.found(g); err != nil {
		return err
	}
	s.pass(2 * time.Second) // the first replica has stopped asking to lead
	tl.leader("")
	return tl.log(t, nil)
}

func (tl *teller) leader(besides string) {
	switch n := tl.s.leader(); {
	case n != nil && besides == "nobody":
		tl.say("somebody leads") // who it is, is chance
		return
	case n != nil && besides != "" && strconv.Itoa(n.n) != besides:
		tl.say("another node than %s leads", besides)
		return
	case n != nil:
		tl.say("node %d leads", n.n)
		return
	}
	tl.say("nobody leads")
}

// elect has the other replicas that can be reached give their leader up, and a node ask to lead.
func (tl *teller) elect(to *stageNode) error {
	s := tl.s
	if l := s.leader(); l != nil { // a tick may wait there, and its heartbeat would bring the leader back to mind
		if err := s.inStep(l, func(*Group) {}); err != nil {
			return err
		}
		s.settle()
	}
	for _, n := range s.nodes {
		if !n.up || n == s.leader() {
			continue
		}
		if err := s.inStep(n, func(g *Group) { _ = g.rn.ForgetLeader() }); err != nil && !errors.Is(err, ErrUnknownGroup) {
			return err
		}
	}
	var asked error
	if err := s.inStep(to, func(g *Group) { asked = g.rn.Campaign() }); err != nil || asked != nil {
		return errors.Join(err, asked)
	}
	s.settle()
	tl.leader("")
	return nil
}

// network: hold proposals|appends|answers|all from=N to=N; release; lose; held; cut N; heal.
func (tl *teller) network(t *testing.T, d *datadriven.TestData) {
	s := tl.s
	l := link{from: number(t, d, "from", 0), to: number(t, d, "to", 0), kind: value(d, "of", "")}
	switch d.Cmd {
	case "hold":
		s.holds = append(s.holds, l)
		return
	case "cut":
		s.cuts = append(s.cuts, l)
		return
	case "heal":
		s.cuts = nil
		return
	case "release", "lose":
		first, last := number(t, d, "first", 0), number(t, d, "last", 0)
		held := s.heldParcels()
		if first > 0 {
			held = held[:min(first, len(held))]
		} else if last > 0 {
			held = held[max(len(held)-last, 0):]
		} else {
			s.holds = nil
		}
		if value(d, "told", "") != "no" { // whose they are may depend on who was elected
			tl.parcels(held)
		}
		for _, p := range held {
			s.drop(p)
			if d.Cmd == "release" {
				s.hand(p)
			}
		}
		s.settle()
		return
	}
	tl.parcels(s.heldParcels())
}

// parcels tells what messages are; of those that are no proposals it tells
// only that there are some, since their number means nothing.
func (tl *teller) parcels(ps []*parcel) {
	var lines []string
	for _, p := range ps {
		line := tl.s.describe(p)
		if p.kind() == "proposals" || !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	tl.sayMany(lines)
	if len(lines) == 0 {
		tl.say("nothing")
	}
}
