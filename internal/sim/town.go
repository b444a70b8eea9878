package sim

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/history"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/placement"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// town is a run of hours: some ten nodes in three or four data centers, and a
// hundred structures that are born by the catalog, changed now and then, and
// quiet most of the time, while nodes join, leave, die and come back, and data
// centers are lost (townevents.go). Placement and healing are the production
// ones, with their defaults. Gossip has a view for each node, which follows the
// network with a delay (towngossip.go). What must hold is in townwish.go.
//
// Hours go by quickly since silence costs little: where all groups are quiet,
// and nothing has happened for some seconds, a host ticks once in a second, and
// programs look for commits only when something was done on their node.
type town struct {
	*Sim
	centers []string
	delays  map[[2]string]time.Duration // one way, between data centers
	cuts    map[[2]int]int              // how many times a link is cut
	rough   int                         // happenings under which messages are lost or late
	steady  time.Time                   // since when the world is as it is
	left    time.Time                   // when a node left last
	open    []*ongoing
	life    TownFigures
	over    bool // nothing happens any more
	idle    bool // programs propose nothing new
}

// resident is what a town knows of a node beside its process.
type resident struct {
	rack     string
	leaving  bool
	gone     bool // for good: it has left, or its directory is lost
	busy     int  // happenings that it is part of
	sick     bool // its log has failed
	doubted  int  // happenings under which gossip takes it for dead
	since    time.Time
	sees     map[*node]*sight
	programs []int // structures that programs here subscribe to
	catalog  *follower
	looking  bool
	ticks    uint64    // a later tick was put off
	next     time.Time // tick
	hurry    time.Time // until then it ticks in full
}

// citizen is what a town knows of a structure.
type citizen struct {
	options raftgroup.Options
	homes   []*node // where its programs are
}

// TownFigures says what a town has lived through.
type TownFigures struct {
	Nodes     int // that were ever there
	Restarts  int
	Moves     int // voters that were replaced
	Lost      int // replicas that a leader has given up
	Structure int
	Longest   time.Duration // until all was as wished, from when the world stood still
	Slowest   time.Duration // leave
	Settled   int           // times that it was

	first    map[id.Group]time.Time             // when groups were first seen
	amiss    map[id.Group]time.Time             // since when something that must be well is not
	newest   map[id.Group]raftgroup.GroupStatus // of all that any node has shown, also of those that are down now
	whole    time.Duration
	well     bool
	seen     time.Time // what was steady at the last look
	looked   time.Time
	finished bool
	voters   map[id.Group]electorate // as of the newest membership that was seen
}

const (
	townTick     = 500 * time.Millisecond // with townElection a dead leader is noticed after 2.5 to 5 s
	slowTick     = time.Second            // of a host on which all is quiet
	liveliest    = 5 * time.Second        // for how long every host ticks in full after something has happened
	townNodes    = 15                     // at most, at a time
	leastTown    = 8                      // that leaving and dying leave
	townElection = 5                      // ticks
)

func newTown(s *Sim) *town {
	return &town{Sim: s, delays: make(map[[2]string]time.Duration), cuts: make(map[[2]int]int), life: TownFigures{
		first: make(map[id.Group]time.Time), amiss: make(map[id.Group]time.Time), newest: make(map[id.Group]raftgroup.GroupStatus), voters: make(map[id.Group]electorate)}}
}

// found makes the first node, and the catalog on it.
func (t *town) found() error {
	for i := range 3 + t.rng.IntN(2) {
		t.centers = append(t.centers, fmt.Sprintf("dc%d", i+1))
	}
	for _, a := range t.centers {
		for _, b := range t.centers {
			if a < b {
				d := t.between(2*time.Millisecond, 40*time.Millisecond)
				t.delays[[2]string{a, b}], t.delays[[2]string{b, a}] = d, d
			}
		}
	}
	if _, err := t.arrive(t.centers[0], "r1"); err != nil {
		return err
	}
	if err := t.foundCatalog(); err != nil {
		return err
	}
	groups := 100
	if t.plan.Groups != 0 {
		groups = t.plan.Groups
	}
	for i := range groups {
		st := structure{born: true, since: t.between(0, min(t.plan.faulty()/8, 10*time.Minute))}
		st.options = t.wishes()
		binary.BigEndian.PutUint64(st.id[8:], uint64(i+1))
		t.structures = append(t.structures, st)
	}
	return nil
}

// wishes draws a structure's options.
func (t *town) wishes() raftgroup.Options {
	o := raftgroup.Options{Voters: 3, SnapshotEntries: uint64(20 + t.rng.IntN(200))}
	switch x := t.rng.IntN(100); {
	case x < 15:
		o.Voters = 5
	case x < 18:
		o.Voters = 1
	case x < 23:
		o.LearnersPerDataCenter = 1
	case x < 28:
		o.PinnedDataCenters = []string{t.centers[0], t.centers[1]}
	case x < 33:
		o.PreferredDataCenter = t.centers[t.rng.IntN(len(t.centers))]
	}
	return o
}

// arrive makes a node, with nothing on its disk, and starts it.
func (t *town) arrive(dc, rack string) (*node, error) {
	n := &node{s: t.Sim, number: len(t.nodes) + 1, dc: dc, fs: vfs.NewMem(), cold: wal.NewMemCold()}
	n.rack = rack
	binary.BigEndian.PutUint64(n.id[8:], uint64(n.number))
	t.nodes = append(t.nodes, n)
	t.byID[n.id] = n
	t.life.Nodes++
	return n, n.start()
}

// configure gives a host what production would: the defaults.
func (t *town) configure(n *node, cfg *raftgroup.Config) {
	cfg.SessionTimeout, cfg.SnapshotTimeout, cfg.ReplaceAfter, cfg.QuietAfter = 0, 0, 0, 0
	cfg.CompactionTail, cfg.TickInterval, cfg.ElectionTicks = 32, townTick, townElection
	cfg.RTT = func(o id.Node) (time.Duration, bool) {
		to := t.byID[o]
		return 2 * t.distance(n, to), to != nil
	}
	cfg.Events = func(e raftgroup.Event) {
		switch e.Kind {
		case raftgroup.EventReplicaReplaced:
			t.life.Moves++
		case raftgroup.EventReplicaLost:
			t.life.Lost++
		}
	}
}

// distance is how long a message takes at least.
func (t *town) distance(a, b *node) time.Duration {
	if b == nil || a.dc == b.dc {
		return 200 * time.Microsecond
	}
	return t.delays[[2]string{a.dc, b.dc}]
}

// started is called when a process has started.
func (t *town) started(n *node) {
	n.sees, n.looking, n.since = make(map[*node]*sight), false, t.now
	if n.life > 1 {
		t.life.Restarts++
	}
	t.changed()
	for _, o := range t.nodes {
		if o != n {
			t.connectLater(n, o)
		}
	}
	t.tickLater(n, t.between(0, townTick))
	t.lookNowAndThen(n, n.life)
	t.inhabit(n, n.life)
	n.work()
}

// changed is called when the world is not what it was: who is there, and who
// reaches whom.
func (t *town) changed() {
	t.steady = t.now
	t.rewire()
	for _, n := range t.nodes {
		t.hurryUp(n, liveliest)
	}
}

// tickLater has a host tick, and go on with it.
func (t *town) tickLater(n *node, in time.Duration) {
	n.ticks++
	n.next = t.now.Add(in)
	life, ticks := n.life, n.ticks
	goesOn := func() bool { return n.up && n.life == life && n.ticks == ticks }
	t.after(in, func() {
		if !goesOn() {
			return
		}
		if !n.paused {
			n.host.Tick()
			n.work()
			if n.up && n.ticks%2 == 0 {
				t.watch.status(n)
			}
		}
		if !goesOn() {
			return
		}
		pause := townTick
		if n.host.Silent() && t.now.After(n.hurry) {
			pause = slowTick
		}
		t.tickLater(n, pause)
	})
}

// hurryUp has a host tick in full for a while.
func (t *town) hurryUp(n *node, d time.Duration) {
	if until := t.now.Add(d); until.After(n.hurry) {
		n.hurry = until
	}
	if n.up && n.next.Sub(t.now) > townTick {
		t.tickLater(n, t.between(0, townTick))
	}
}

// stepped is called when a node has done something.
func (t *town) stepped(n *node) {
	if n.up && n.next.Sub(t.now) > townTick && !n.host.Silent() {
		t.tickLater(n, t.between(0, townTick))
	}
	if n.looking || !n.up {
		return
	}
	n.looking = true
	life := n.life
	t.after(t.between(0, 20*time.Millisecond), func() {
		if n.up && n.life == life {
			n.looking = false
			t.look(n, false)
		}
	})
}

// look has the programs of a node, and its catalog, look for commits.
func (t *town) look(n *node, all bool) {
	if n.paused || !n.up {
		return
	}
	if n.catalog != nil {
		t.must(n.catalog.look())
	}
	for _, sub := range append([]*subscriber(nil), n.subs...) {
		if (sub.m.News() || all) && sub.lives() {
			sub.look()
		}
	}
	n.work()
}

// lookNowAndThen is for what nothing tells of: a snapshot that can be read now.
func (t *town) lookNowAndThen(n *node, life uint64) {
	t.after(t.between(2*time.Second, 4*time.Second), func() {
		if n.up && n.life == life {
			t.look(n, true)
			t.lookNowAndThen(n, life)
		}
	})
}

// place picks the nodes of a birth, as the root package does.
func (t *town) place(n *node, st *structure) []id.Node {
	return placement.Choose(st.id, usable(gossip{n}.Nodes()), st.options.Placement()).Voters
}

func usable(nodes []raftgroup.Node) (out []placement.Node) {
	for _, o := range nodes {
		if !o.Leaving {
			out = append(out, placement.Node{ID: o.ID, DataCenter: o.DataCenter, Rack: o.Rack, Capacity: o.Capacity})
		}
	}
	return out
}

// run lives through the plan.
func (t *town) run() (*Result, error) {
	t.after(0, t.observe)
	count := 9 + t.rng.IntN(4)
	if t.plan.Nodes != 0 {
		count = t.plan.Nodes
	}
	for i := 1; i < count; i++ {
		dc, rack := t.centers[i%len(t.centers)], fmt.Sprintf("r%d", 1+i/len(t.centers)%2)
		t.after(t.between(time.Second, 3*time.Minute), func() {
			if !t.over {
				_, err := t.arrive(dc, rack)
				t.must(err)
			}
		})
	}
	for i := range t.structures {
		t.after(t.structures[i].since, func() { t.settleIn(i) })
		t.after(t.structures[i].since+t.between(0, 3*time.Minute), func() { t.stir(i) })
	}
	t.toil()
	for _, f := range t.plan.schedule() {
		t.after(f.at, func() { t.happen(f) })
	}
	t.net.slowest = townJitter
	t.runUntil(t.begin.Add(t.plan.faulty()), func() bool { return len(t.errs) > 0 })
	if err := t.end(); err != nil {
		return nil, fmt.Errorf("%s: %w", t.plan, err)
	}
	return t.result()
}

func (t *town) result() (*Result, error) {
	t.life.Structure = len(t.structures)
	r := &Result{
		Report: history.Check(t.rec.History(), history.Options{Bound: bound}),
		Trace:  t.trace.Sum64(), Steps: t.steps, Proposals: t.proposals, Commits: t.commits, Crashes: t.crashes,
		Faults: t.faults, Virtual: t.now.Sub(t.begin), Births: len(t.watch.births), Deaths: len(t.watch.deaths),
		Stored: t.stored, Scene: t.scene, Town: t.life,
	}
	return r, joined(t.errs)
}
