package operator

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// ErrRefused says that a group is not to be rebuilt like this; the text says why.
var ErrRefused = errors.New("not rebuilt")

// RecordFile is the file in a data directory to which each rebuilding done on it
// is added, as a line of JSON.
const RecordFile = "recoveries.jsonl"

// Survivor is what one directory holds of a group.
type Survivor struct {
	Dir    string `json:"dir"`
	NodeID string `json:"node_id"`
	Group  Group  `json:"group"`
	Unfit  string `json:"unfit,omitempty"` // why the group cannot be rebuilt from it
}

// Case is a group whose quorum may be lost, as its survivors have it: the first
// is the one to rebuild from.
type Case struct {
	Structure string     `json:"structure"`
	Catalog   bool       `json:"catalog,omitempty"`
	Survivors []Survivor `json:"survivors"`
	Voters    []Member   `json:"voters"`            // as the first survivor knows them
	Missing   []Member   `json:"missing,omitempty"` // those of them that no survivor is
	Ended     string     `json:"ended,omitempty"`   // who says that the structure was deleted
	Later     string     `json:"later,omitempty"`   // who says that it has a later life than the first survivor's
	Running   []string   `json:"running,omitempty"` // nodes that have said that they have a replica of this life
	Answers   bool       `json:"answers,omitempty"` // it is the catalog, and has answered: it has its quorum

	facts  []Fact
	beyond uint32 // the greatest recovery number of this birth that is known of
}

// Overrule is what an operator says although it is refused else.
type Overrule struct {
	Lesser  bool // another directory has more of the log, or there is a quorum after all, or a later life
	Deleted bool // the catalog says that the structure was deleted
}

// Cases reads what the directories hold, and pairs it up: one case for each
// group of which the first directory has a replica that was started; if
// superseded is set, of those too that were set aside for a later life.
func Cases(dirs []string, superseded bool) ([]Case, []Report, error) {
	reports := make([]Report, 0, len(dirs))
	for _, dir := range dirs {
		r, err := Inspect(dir, false)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", dir, err)
		}
		if r.Identity == nil {
			return nil, nil, fmt.Errorf("%s: %w: no identity: %s", dir, ErrRefused, strings.Join(r.Damage, "; "))
		}
		reports = append(reports, r)
	}
	usable := func(g Group) bool {
		return g.Phase == raftgroup.PhaseStarted || (superseded && g.Phase == raftgroup.PhaseSuperseded)
	}
	var out []Case
	for _, g := range reports[0].Groups {
		if !usable(g) {
			continue
		}
		c := Case{Structure: g.Structure, Catalog: g.Catalog}
		for i, r := range reports {
			for _, other := range r.Groups {
				if other.key.Structure == g.key.Structure && (i > 0 || other.Local == g.Local) && usable(other) {
					c.Survivors = append(c.Survivors, Survivor{Dir: dirs[i], NodeID: r.Identity.NodeID, Group: other, Unfit: unfit(other, r.Groups)})
				}
			}
		}
		c.findMissing()
		c.findLives(reports)
		if !c.Catalog {
			c.facts = known(reports, g.key.Structure)
		}
		c.judge()
		out = append(out, c)
	}
	return out, reports, nil
}

// Elsewhere is a directory with replicas of structures that the first one of
// several has none of: they are to be looked at from there.
type Elsewhere struct {
	Dir    string
	Groups int
}

// NotIn lists the other directories that have replicas in use of structures of
// which the first one has none.
func NotIn(reports []Report) []Elsewhere {
	seen := make(map[string]bool)
	for _, g := range reports[0].Groups {
		if g.Phase == raftgroup.PhaseStarted {
			seen[g.Structure] = true
		}
	}
	var out []Elsewhere
	for _, r := range reports[1:] {
		e := Elsewhere{Dir: r.Dir}
		for _, g := range r.Groups {
			if g.Phase == raftgroup.PhaseStarted && !g.Deleted && !seen[g.Structure] {
				seen[g.Structure] = true
				e.Groups++
			}
		}
		if e.Groups > 0 {
			out = append(out, e)
		}
	}
	return out
}

// unfit says why a group cannot be rebuilt from a replica, that is one of several
// in its directory.
func unfit(g Group, beside []Group) string {
	if g.Phase == raftgroup.PhaseSuperseded {
		for _, o := range beside {
			if o.Structure == g.Structure && o.Local != g.Local && o.Phase == raftgroup.PhaseStarted && o.SetAside == "" {
				return fmt.Sprintf("superseded, and its node has replica %d of %s in use", o.Replica, o.Incarnation)
			}
			if o.Structure == g.Structure && o.Phase == raftgroup.PhaseSuperseded && g.key.Incarnation.Less(o.key.Incarnation) {
				return fmt.Sprintf("superseded, and so is replica %d of %s beside it, which is later", o.Replica, o.Incarnation)
			}
		}
	}
	switch {
	case g.SetAside != "":
		return "set aside: " + g.SetAside
	case g.Deleted:
		return "the structure was deleted"
	case g.Last == 0:
		return "it has no log"
	case g.Incomplete != "" && !strings.Contains(g.Incomplete, errCold.Error()):
		return g.Incomplete
	}
	return ""
}

func (c *Case) findMissing() {
	first := &c.Survivors[0].Group
	seen := make(map[uint64]bool)
	for _, voters := range []map[id.Replica]id.Node{first.view.Voters, first.view.Outgoing} {
		for r, n := range voters {
			if seen[uint64(r)] {
				continue
			}
			seen[uint64(r)] = true
			m := Member{Replica: uint64(r), NodeID: n.String(), Voter: true}
			c.Voters = append(c.Voters, m)
			if !c.holds(first, r) {
				c.Missing = append(c.Missing, m)
			}
		}
	}
	for _, some := range [][]Member{c.Voters, c.Missing} {
		slices.SortFunc(some, func(a, b Member) int { return cmp.Compare(a.Replica, b.Replica) })
	}
}

// HasQuorum reports whether the survivors, and the nodes that run, are a majority
// of the voters, as the one that has most of the log knows them: then they are to be started,
// and nothing has to be rebuilt. Those that were set aside are not used, however many they
// are; and if one is of a later life than the first, it is another group that would live.
func (c *Case) HasQuorum() bool {
	first := &c.Survivors[0].Group
	newest := first
	if better := c.Better(); better != nil {
		newest = &better.Group
	}
	if newest.Phase == raftgroup.PhaseSuperseded || newest.key.Incarnation != first.key.Incarnation {
		return false
	}
	for _, voters := range []map[id.Replica]id.Node{newest.view.Voters, newest.view.Outgoing} {
		missing := 0
		for r, n := range voters {
			if !c.holds(newest, r) && !slices.Contains(c.Running, n.String()) {
				missing++
			}
		}
		if len(voters) > 0 && len(voters)-missing <= len(voters)/2 {
			return false
		}
	}
	return len(newest.view.Voters) > 0
}

// holds reports whether a survivor is the replica r of the group that g is of.
func (c *Case) holds(g *Group, r id.Replica) bool {
	return slices.ContainsFunc(c.Survivors, func(s Survivor) bool {
		return s.Group.self == r && s.Group.key.Incarnation == g.key.Incarnation && s.Unfit == "" && s.Group.Phase == g.Phase
	})
}

// Better is the survivor that has more of the log than the first one, if there is one.
func (c *Case) Better() *Survivor {
	best := &c.Survivors[0]
	for i := range c.Survivors[1:] {
		s := &c.Survivors[i+1]
		if s.Unfit == "" && (best.Unfit != "" || s.ahead(best)) {
			best = s
		}
	}
	if best == &c.Survivors[0] {
		return nil
	}
	return best
}

// ahead is raft's rule of whose log is newer; a later life is, in any case.
func (s *Survivor) ahead(o *Survivor) bool {
	a, b := &s.Group, &o.Group
	if a.key.Incarnation != b.key.Incarnation {
		return b.key.Incarnation.Less(a.key.Incarnation)
	}
	return cmp.Or(cmp.Compare(a.LastTerm, b.LastTerm), cmp.Compare(a.Last, b.Last)) > 0
}

// Check says why the group should not be rebuilt from the first survivor,
// although an operator overrules some of it.
func (c *Case) Check(o Overrule) error {
	better := c.Better()
	if o.Lesser {
		better = nil
	}
	switch {
	case c.Ended != "" && !o.Deleted:
		return fmt.Errorf("%w: %s; rebuilt, it would be ended and removed again as soon as it reaches the catalog (-deleted overrules this)", ErrRefused, c.Ended)
	case better != nil && !c.HasQuorum(): // with a quorum it does not matter who has more: raft sorts that out
		return fmt.Errorf("%w: %s has more of the log (index %d of term %d): rebuild from that one", ErrRefused, better.Dir, better.Group.Last, better.Group.LastTerm)
	case c.Survivors[0].Unfit != "":
		return fmt.Errorf("%w: %s: %s", ErrRefused, c.Survivors[0].Dir, c.Survivors[0].Unfit)
	case c.Later != "" && !o.Lesser:
		return fmt.Errorf("%w: %s: if that is left anywhere, rebuild from there; if it is lost for good, say -force", ErrRefused, c.Later)
	case c.Answers && !o.Lesser:
		return fmt.Errorf("%w: the catalog of the cluster that was asked has its quorum: nothing is to be rebuilt (-force overrules this)", ErrRefused)
	case c.HasQuorum() && len(c.Running) > 0 && !o.Lesser:
		return fmt.Errorf("%w: with what is on %s there is a majority of the voters: start the nodes of these directories, and nothing is lost (if replicas there have stopped, as their status says, and do not start again either, -force overrules this)", ErrRefused, strings.Join(c.Running, ", "))
	case c.Moved() != "" && !o.Lesser:
		return fmt.Errorf("%w: node %s has a replica that came after %s was written, so the group has moved, and its log is the newer one: if it has lost its quorum, rebuild it from there (-force overrules this)", ErrRefused, c.Moved(), c.Survivors[0].Dir)
	case c.HasQuorum() && !o.Lesser:
		return fmt.Errorf("%w: these directories are a majority of the voters: start their nodes, and nothing is lost", ErrRefused)
	}
	return nil
}

// Record is the durable record of a rebuilding, beside the one in the log itself.
type Record struct {
	At     time.Time `json:"at"`
	Group  string    `json:"group"` // before
	From   string    `json:"from"`
	To     string    `json:"to"`
	NodeID string    `json:"node_id"`
	Index  uint64    `json:"index"` // of the entry that tells of it
	Reason string    `json:"reason"`
	Case   Case      `json:"case"`
}

// Rebuild rebuilds groups from what a stopped node's directory holds of them: each by
// one frame in its log, after which the group's only member is this replica, in
// a new incarnation. It takes the directory's lock (vfs.ErrLocked if a node runs
// on it) and does not check whether it is wise: Case.Check does. Each is recorded
// in RecordFile before done hears of it; an error ends it, and what was rebuilt
// before that stays so.
func Rebuild(dir string, cases []Case, reason string, now time.Time, done func(Record)) (err error) {
	node, err := openStopped(dir, RecordFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.close()) }()
	for _, c := range cases {
		r, err := rebuildOne(node.log, c, reason, now)
		if err != nil {
			return fmt.Errorf("structure %s: %w", c.Structure, err)
		}
		if err := node.tell(r); err != nil {
			return fmt.Errorf("structure %s was rebuilt as %s, and %s does not tell: %w", c.Structure, r.To, RecordFile, err)
		}
		done(r)
	}
	return node.sync()
}

func rebuildOne(l *wal.Log, c Case, reason string, now time.Time) (Record, error) {
	chosen := &c.Survivors[0]
	st, err := l.State(chosen.Group.Local)
	if err != nil {
		return Record{}, err
	}
	if st.LastIndex != chosen.Group.Last || st.HardState.GetTerm() != chosen.Group.Term {
		return Record{}, fmt.Errorf("%w: the log has changed since it was looked at: index %d of term %d", ErrRefused, st.LastIndex, st.HardState.GetTerm())
	}
	term, err := l.Term(st.Group, st.LastIndex)
	if err != nil {
		return Record{}, err
	}
	node, err := id.ParseNode(chosen.NodeID)
	if err != nil {
		return Record{}, err
	}
	var commit []byte
	if c.Catalog {
		if commit, err = catalog.RecoveryCommand(chosen.Group.catalogIndex, now); err != nil {
			return Record{}, err
		}
	}
	u, r, err := raftgroup.PlanRebuild(st, term, raftgroup.RebuildOrder{Node: node, Commit: commit, At: now, Reason: reason, Beyond: c.beyond, Superseded: chosen.Group.Phase == raftgroup.PhaseSuperseded}, rand.Reader)
	if err != nil {
		return Record{}, err
	}
	written := make(chan error, 1)
	l.Submit([]wal.Update{u}, func(err error) { written <- err })
	if err := <-written; err != nil {
		return Record{}, err
	}
	return Record{
		At: now.UTC(), Group: c.Structure, From: r.From.String(), To: r.To.String(), NodeID: chosen.NodeID,
		Index: st.LastIndex + 1, Reason: reason, Case: c,
	}, nil
}
