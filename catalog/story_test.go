package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
)

// TestStories plays testdata/stories: births of structures that are cut short at
// one place, told with what is left then and what becomes of it. The parts are
// real: hosts, logs, the catalog and its services, in virtual time. The steps of
// the birth, which run side by side otherwise, come one after the other. After a
// change that is meant to change what they say: go test ./catalog -run
// TestStories -rewrite, and read the difference.
func TestStories(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/stories/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("stories: %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tell := newTeller(t)
				defer tell.w.end()
				datadriven.RunTest(t, file, tell.command)
			})
		})
	}
}

// roles are the nodes of a story's births: who gives birth, and the other two
// that get a first replica. The catalog is elsewhere, but for the third.
var roles = []string{"creator", "second", "third"}

// birthSteps are the steps of a birth, in a story's order.
var birthSteps = []string{
	"prepare on creator", "prepare on second", "prepare on third", "create",
	"start on creator", "start on second", "start on third",
}

// script is how one birth goes: its steps in order, of which one is the last of a
// process, and its Create perhaps on its way for long.
type script struct {
	roles   map[id.Node]string
	creator *process
	done    map[string]chan struct{} // closed: the step is over

	at     string // victim dies at this step; "": nobody does
	late   bool   // the step has its effect first
	victim *process

	mu      sync.Mutex
	ended   map[string]bool
	holding bool
	held    []func(context.Context)
}

// step carries out a step of the birth when its turn has come.
func (sc *script) step(p *process, what string, to id.Node, do func() error) error {
	name := what + " on " + sc.roles[to]
	if what == "create" {
		name = what
	}
	if i := slices.Index(birthSteps, name); i > 0 {
		select {
		case <-sc.done[birthSteps[i-1]]:
		case <-p.died:
		case <-time.After(time.Second): // the one before is left out of this attempt
		}
	}
	defer sc.over(name)
	mine := name == sc.at
	if mine && !sc.late {
		sc.victim.die()
	}
	if p.dead.Load() {
		return errDead
	}
	err := do()
	if mine && sc.late {
		sc.victim.die()
	}
	if p.dead.Load() {
		return errDead
	}
	return err
}

func (sc *script) over(name string) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if done := sc.done[name]; done != nil && !sc.ended[name] {
		sc.ended[name] = true
		close(done)
	}
}

// holds reports whether a call of a process is to be on its way for long.
func (sc *script) holds(p *process, what string) bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.holding && p == sc.creator && what == "create"
}

// hold keeps a call until it is released; whoever made it waits as long as it can.
func (sc *script) hold(ctx context.Context, call func(context.Context)) error {
	sc.mu.Lock()
	sc.held = append(sc.held, call)
	sc.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

// teller carries out the commands of one story.
type teller struct {
	t     *testing.T
	w     *world
	nodes map[string]int // of the roles
	next  uint64         // structures so far
	last  id.Structure
	sc    *script
	out   strings.Builder
}

func newTeller(t *testing.T) *teller {
	w := newWorld(t, 7, 1)
	w.found(5)
	w.c.Net.SetLatency(5 * time.Millisecond)
	tl := &teller{t: t, w: w, nodes: make(map[string]int)}
	outside := 0
	for i, n := range w.c.Nodes {
		g, holds := n.Host.Group(catalog.ID)
		switch {
		case holds && !g.Status().IsLeader:
			tl.nodes["third"] = i
		case holds:
		case outside == 0:
			tl.nodes["creator"] = i
			outside++
		default:
			tl.nodes["second"] = i
			outside++
		}
	}
	if outside != 2 {
		t.Errorf("%d nodes are without the catalog", outside)
	}
	return tl
}

func (tl *teller) say(format string, args ...any) { fmt.Fprintf(&tl.out, format+"\n", args...) }

func (tl *teller) process(role string) *process { return tl.w.on(tl.nodes[role]) }

func (tl *teller) node(role string) *rig.Node { return tl.w.c.Nodes[tl.nodes[role]] }

func (tl *teller) command(t *testing.T, d *datadriven.TestData) string {
	tl.t, tl.w.t, tl.w.c.T = t, t, t
	tl.out.Reset()
	switch d.Cmd {
	case "steps":
		tl.say("%s", strings.Join(birthSteps, "\n"))
	case "crash": // crash ROLE before|after STEP
		var args []string
		for _, a := range d.CmdArgs {
			args = append(args, a.Key)
		}
		if len(args) < 3 || !slices.Contains(roles, args[0]) || !slices.Contains(birthSteps, strings.Join(args[2:], " ")) {
			d.Fatalf(t, "crash whom, and where?")
		}
		tl.crash(args[0], args[1] == "after", strings.Join(args[2:], " "))
	case "birth": // one whose Create is on its way until it is released
		tl.birthOnItsWay()
	case "release":
		tl.release()
	case "pass":
		v, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		time.Sleep(v) // virtual
		tl.tell("")
	case "again":
		tl.again()
	default:
		d.Fatalf(t, "no such command")
	}
	return tl.out.String()
}

// begin begins a birth of the next structure at the creator, and returns what it
// is told once it ends: by itself, with the creator's process, or after limit.
func (tl *teller) begin(sc *script, limit time.Duration) (catalog.Record, error) {
	tl.next++
	tl.last = rig.Structure(1000 + tl.next)
	sc.roles, sc.done, sc.ended = make(map[id.Node]string), make(map[string]chan struct{}), make(map[string]bool)
	for _, role := range roles {
		sc.roles[tl.node(role).ID] = role
	}
	for _, name := range birthSteps {
		sc.done[name] = make(chan struct{})
	}
	p := tl.process("creator")
	sc.creator = p
	time.Sleep(2 * patience) // what the birth before has left to the background is over
	p.script.Store(sc)
	ctx, cancel := context.WithTimeout(tl.t.Context(), limit)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	go func() {
		select {
		case <-p.died:
			cancel()
		case <-ctx.Done():
		}
	}()
	rec, err := p.svc.Birth(ctx, tl.last, raftgroup.Options{}, tl.pick)
	if sc.at == "" || sc.victim.dead.Load() {
		return rec, err
	}
	select { // it dies at what the birth leaves to the background
	case <-sc.victim.died:
	case <-time.After(time.Minute):
		tl.t.Fatalf("nobody comes to the step %q", sc.at)
	}
	return rec, err
}

func (tl *teller) pick() []id.Node {
	return []id.Node{tl.node("creator").ID, tl.node("second").ID, tl.node("third").ID}
}

// tell tells what the nodes have of the structure, and what the catalog says.
func (tl *teller) tell(when string) {
	var has []string
	for _, role := range roles {
		n, what := tl.node(role), "nothing"
		switch {
		case !n.Up():
			what = "down"
		case slices.ContainsFunc(n.Host.Prepared(), func(p raftgroup.PreparedReplica) bool { return p.Genesis.Group.Structure == tl.last }):
			what = "prepared"
		case holds(n, tl.last):
			what = "started"
		}
		has = append(has, role+" "+what)
	}
	record := "no record"
	asked := tl.process("third")
	if !tl.node("third").Up() {
		asked = tl.process("second")
	}
	ctx, cancel := context.WithTimeout(tl.t.Context(), time.Minute)
	defer cancel()
	switch rec, err := asked.svc.Confirm(ctx, tl.last); {
	case err == nil && rec.Lives():
		record = fmt.Sprintf("recorded with %d replicas", len(rec.Members))
	case !errors.Is(err, catalog.ErrUnknown):
		record = fmt.Sprint(err)
	}
	if when != "" {
		when += ": "
	}
	tl.say("%s%s; %s", when, strings.Join(has, ", "), record)
}

func holds(n *rig.Node, s id.Structure) bool {
	_, ok := n.Host.Group(s)
	return ok
}

// crash loses a node at a step of a birth, and tells what becomes of it.
func (tl *teller) crash(victim string, late bool, at string) {
	sc := &script{at: at, late: late, victim: tl.process(victim)}
	rec, err := tl.begin(sc, 5*time.Minute)
	switch {
	case victim == "creator":
	case err != nil:
		tl.say("the creator is told: %v", err)
	default:
		tl.say("the creator is told: born with %d replicas", len(rec.Members))
	}
	tl.w.crash(tl.nodes[victim])
	tl.w.c.Net.Heal()
	time.Sleep(patience / 6) // virtual: what is on its way arrives, and nobody has lost patience
	tl.tell("left")
	tl.w.settled()
	tl.tell("then")
	tl.node(victim).Start()
	synctest.Wait()
	tl.tell("back")
	tl.w.settled()
	tl.tell("then")
	before := rec
	if before.Incarnation.Birth == 0 {
		before, _ = tl.confirmed()
	}
	tl.again()
	if after, _ := tl.confirmed(); before.Incarnation.Birth != 0 && after.Group() != before.Group() {
		tl.say("ANOTHER GROUP: %s, before it was %s", after.Group(), before.Group())
	}
}

func (tl *teller) confirmed() (catalog.Record, error) {
	ctx, cancel := context.WithTimeout(tl.t.Context(), time.Minute)
	defer cancel()
	return tl.process("third").svc.Confirm(ctx, tl.last)
}

// again has the third give birth to the same structure.
func (tl *teller) again() {
	tl.t.Helper()
	before, err := tl.confirmed()
	ctx, cancel := context.WithTimeout(tl.t.Context(), 5*time.Minute)
	defer cancel()
	rec, berr := tl.process("third").svc.Birth(ctx, tl.last, raftgroup.Options{}, tl.pick)
	if berr != nil {
		tl.say("a birth again: %v", berr)
		return
	}
	tl.w.settled()
	tl.w.check(tl.last, rec)
	switch {
	case err == nil && before.Group() == rec.Group():
		tl.tell("a birth again finds it")
	default:
		tl.tell("a birth again makes it")
	}
}

// birthOnItsWay has a birth's Create on its way for longer than its caller waits.
func (tl *teller) birthOnItsWay() {
	tl.sc = &script{holding: true}
	_, err := tl.begin(tl.sc, time.Second)
	switch {
	case errors.Is(err, catalog.ErrCatalogUnavailable):
		tl.say("the creator is told: %v", catalog.ErrCatalogUnavailable)
	default:
		tl.say("the creator is told: %v", err)
	}
	tl.tell("left")
}

// release lets the Create go on its last way.
func (tl *teller) release() {
	ctx, cancel := context.WithTimeout(tl.t.Context(), time.Minute)
	defer cancel()
	tl.sc.mu.Lock()
	held := tl.sc.held
	tl.sc.held, tl.sc.holding = nil, false
	tl.sc.mu.Unlock()
	for _, call := range held {
		call(ctx)
	}
	tl.tell(fmt.Sprintf("%d on the way", len(held)))
}
