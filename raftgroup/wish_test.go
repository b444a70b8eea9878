package raftgroup

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/placement"
)

// scene is a group on a map of nodes, to which decisions are applied as raft
// would apply them.
type scene struct {
	t     *testing.T
	seed  uint64
	rng   *rand.Rand
	nodes []Node
	dead  map[id.Node]bool
	lost  map[id.Replica]bool
	away  map[id.Replica]bool // not active, within the grace
	slow  map[id.Replica]bool // has not caught up
	busy  map[id.Node]bool
	deny  map[id.Node]bool // refuses replicas
	asked map[id.Node]int  // for how many rests it has done so
	rests map[id.Node]bool // and is left alone therefore
	opt   Options
	next  id.Replica
	lead  id.Replica
	conf  *raftpb.ConfState
	on    map[id.Replica]id.Node
	told  []string
}

func sceneNode(n int) (out id.Node) {
	binary.BigEndian.PutUint64(out[8:], uint64(n))
	return out
}

func newScene(t *testing.T, seed uint64, nodes, voters int, opt Options) *scene {
	s := &scene{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), dead: map[id.Node]bool{}, lost: map[id.Replica]bool{}, away: map[id.Replica]bool{},
		slow: map[id.Replica]bool{}, busy: map[id.Node]bool{},
		deny: map[id.Node]bool{}, asked: map[id.Node]int{}, rests: map[id.Node]bool{}, opt: opt.withDefaults(), lead: 1, on: map[id.Replica]id.Node{},
		conf: &raftpb.ConfState{AutoLeave: new(false)},
	}
	for i := range nodes {
		s.nodes = append(s.nodes, Node{ID: sceneNode(i + 1), DataCenter: fmt.Sprint("dc", i%3), Rack: fmt.Sprint("r", i%2), Capacity: 1})
	}
	for i := range voters {
		s.on[id.Replica(i+1)] = s.nodes[i].ID
		s.conf.Voters = append(s.conf.Voters, uint64(i+1))
	}
	s.next = id.Replica(voters + 1)
	return s
}

func (s *scene) survey() *survey {
	v := &survey{
		structure: id.Structure{1, byte(s.seed)}, self: s.lead, conf: s.conf, members: s.on, options: s.opt, lost: s.lost, busy: s.busy,
		active: map[id.Replica]bool{}, caughtUp: map[id.Replica]bool{}, mayMove: true, settled: true, idle: map[id.Replica]bool{}, stray: map[id.Replica]bool{},
		away: map[id.Replica]bool{}, avoided: s.rests, hopeless: map[id.Node]bool{}, refusals: map[id.Node]string{}, unheard: map[id.Replica]bool{},
	}
	for n, times := range s.asked {
		v.hopeless[n], v.refusals[n] = times >= maxRests, "no"
	}
	for _, n := range s.nodes {
		if !s.dead[n.ID] {
			v.nodes = append(v.nodes, n)
		}
	}
	for r, n := range s.on {
		v.active[r] = !s.dead[n] && !s.away[r] && !s.lost[r]
		v.caughtUp[r] = v.active[r] && !s.slow[r]
		v.away[r], v.idle[r], v.stray[r] = !v.active[r], true, true
		v.unheard[r] = s.away[r] && s.seed%2 == 0 // or for a moment
	}
	return v
}

func (s *scene) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("seed %d: %s\n%s", s.seed, fmt.Sprintf(format, args...), strings.Join(s.told, "\n"))
}

// step decides once, checks the rules, and applies. False: nothing to do.
func (s *scene) step() bool {
	s.t.Helper()
	v := s.survey()
	d := v.decide()
	s.told = append(s.told, fmt.Sprintf("lead %d, voters %v, learners %v, on %v: place %v, transfer %d, change %v (%s), waits %q",
		s.lead, s.conf.Voters, s.conf.Learners, s.on, d.place, d.transfer, d.change, d.why, d.waits))
	if d.transfer != 0 && len(d.change) > 0 {
		s.fail("a transfer and a change at once")
	}
	for _, n := range d.place {
		if i := slices.IndexFunc(v.nodes, func(o Node) bool { return o.ID == n }); i < 0 || v.nodes[i].Leaving {
			s.fail("placed on a node that is dead or leaves")
		}
		if s.deny[n] {
			s.asked[n]++
			s.rests[n] = true
			continue
		}
		s.on[s.next] = n
		s.slow[s.next] = s.rng.IntN(2) == 0
		s.apply(&raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{single(raftpb.ConfChangeAddLearnerNode, s.next)}})
		s.next++
	}
	if d.transfer != 0 {
		if !v.caughtUp[d.transfer] || !slices.Contains(s.conf.Voters, uint64(d.transfer)) {
			s.fail("leadership to a replica that cannot lead")
		}
		s.lead = d.transfer
	}
	if len(d.change) > 0 {
		s.change(v, d)
	}
	return len(d.place) > 0 || d.transfer != 0 || len(d.change) > 0
}

func (s *scene) change(v *survey, d decision) {
	s.t.Helper()
	before := slices.Clone(s.conf.Voters)
	for _, c := range d.change {
		r := id.Replica(c.GetNodeId())
		if c.GetType() == raftpb.ConfChangeAddNode && (!v.caughtUp[r] || !slices.Contains(s.conf.Learners, uint64(r))) {
			s.fail("a voter of what is no learner, or has not caught up")
		}
	}
	s.apply(&raftpb.ConfChangeV2{Changes: d.change})
	after := s.conf.Voters
	leaves := slices.ContainsFunc(s.nodes, func(n Node) bool {
		return n.Leaving && !s.dead[n.ID] && slices.ContainsFunc(before, func(r uint64) bool { return v.members[id.Replica(r)] == n.ID })
	})
	fewer := leaves || len(before) > wished(s.opt)
	if len(after) < len(before) && !fewer {
		s.fail("the number of voters fell from %d to %d", len(before), len(after))
	}
	if len(before)%2 == 1 && len(after)%2 == 0 {
		s.fail("an even number of voters")
	}
	slack := func(voters []uint64) int {
		n := 0
		for _, r := range voters {
			if v.active[id.Replica(r)] {
				n++
			}
		}
		return n - len(voters)/2 - 1
	}
	if !slices.Equal(before, after) && (slack(after) < 0 || slack(after) < slack(before) && !fewer) {
		s.fail("from %v to %v: the group can lose fewer", before, after)
	}
	if !inConf(s.conf, uint64(s.lead)) {
		s.lead = id.Replica(after[0])
	}
	for r := range s.on {
		if !inConf(s.conf, uint64(r)) {
			delete(s.on, r)
		}
	}
}

func (s *scene) apply(cc *raftpb.ConfChangeV2) {
	s.t.Helper()
	next, err := applyConfChange(s.conf, cc)
	if err == nil && isJoint(next) {
		next, err = applyConfChange(next, &raftpb.ConfChangeV2{})
	}
	if err != nil {
		s.fail("%v: %v", cc, err)
	}
	s.conf = next
}

// quorate reports whether the leader lives and has a majority.
func (s *scene) quorate() bool {
	n := 0
	for _, r := range s.conf.Voters {
		if !s.dead[s.on[id.Replica(r)]] && !s.lost[id.Replica(r)] {
			n++
		}
	}
	return n > len(s.conf.Voters)/2
}

// elect has the first voter lead that can, if the leader cannot.
func (s *scene) elect() {
	for _, r := range append([]uint64{uint64(s.lead)}, s.conf.Voters...) {
		if lead := id.Replica(r); slices.Contains(s.conf.Voters, r) && !s.dead[s.on[lead]] && !s.lost[lead] {
			s.lead = lead
			return
		}
	}
}

// settle lets everything catch up, and the decisions run out.
func (s *scene) settle() {
	s.t.Helper()
	s.away = map[id.Replica]bool{}
	for range 100 {
		s.slow = map[id.Replica]bool{}
		s.elect()
		if !s.step() && !s.rested() {
			return
		}
	}
	s.fail("no end of changes")
}

// rested ends the rest of a node that has refused a replica, as often as a
// leave waits for it.
func (s *scene) rested() (again bool) {
	for n := range s.rests {
		if s.asked[n] < maxRests {
			delete(s.rests, n)
			again = true
		}
	}
	return again
}

// Random deaths, returns, ghosts, leaves, new nodes and options; the rules hold
// at every step, and in the end the group is as wished.
func TestDecideProperty(t *testing.T) {
	t.Parallel()
	healed := 0
	for seed := range uint64(200) {
		s := newScene(t, seed, 1+int(seed)%7, 1, Options{Voters: 1 + 2*uint32(seed%3), DataCenters: uint32(seed % 4)})
		s.settle()
		for range 40 {
			s.disturb()
			s.elect()
			if s.quorate() {
				s.step()
			}
		}
		for i := range s.nodes { // what left has gone, what was dead is back
			s.nodes[i].Leaving = false
		}
		s.dead = map[id.Node]bool{}
		s.elect()
		if !s.quorate() {
			continue // ghosts have the majority: an operator's case
		}
		s.settle()
		healed++
		if want := placement.VoterTarget(len(s.nodes), int(s.opt.Voters)); len(s.conf.Voters) != want {
			s.fail("%d voters, want %d", len(s.conf.Voters), want)
		}
		homes := map[id.Node]bool{}
		for _, r := range s.conf.Voters {
			homes[s.on[id.Replica(r)]] = true
			if s.lost[id.Replica(r)] {
				s.fail("a lost replica votes")
			}
		}
		if len(homes) != len(s.conf.Voters) {
			s.fail("two voters on a node")
		}
	}
	if healed < 100 {
		t.Fatalf("only %d groups kept their majority: the test says little", healed)
	}
}

// disturb lets one thing happen.
func (s *scene) disturb() {
	n := &s.nodes[s.rng.IntN(len(s.nodes))]
	var members []id.Replica
	members = append(members, slices.Sorted(maps.Keys(s.on))...)
	r := members[s.rng.IntN(len(members))]
	switch s.rng.IntN(9) {
	case 0:
		s.dead[n.ID] = true
	case 1:
		delete(s.dead, n.ID)
		for r, on := range s.on {
			if on == n.ID {
				delete(s.lost, r)
			}
		}
	case 2: // the grace is over
		for r, on := range s.on {
			if s.dead[on] && s.rng.IntN(2) == 0 {
				s.lost[r] = true
			}
		}
	case 3:
		s.away[r] = !s.away[r] && r != s.lead
	case 4:
		if s.rng.IntN(3) == 0 && r != s.lead && len(s.conf.Voters) > 1 {
			s.lost[r] = true // a ghost
		}
	case 5:
		n.Leaving = !n.Leaving && s.rng.IntN(2) == 0
	case 6:
		if len(s.nodes) < 12 {
			i := len(s.nodes)
			s.nodes = append(s.nodes, Node{ID: sceneNode(i + 1), DataCenter: fmt.Sprint("dc", s.rng.IntN(5)), Capacity: 1})
		}
	case 7:
		s.slow = map[id.Replica]bool{}
	case 8:
		if s.rng.IntN(4) == 0 {
			s.opt.Voters = 1 + 2*uint32(s.rng.IntN(3))
		}
		s.busy[n.ID] = !s.busy[n.ID]
	}
}

func (s *scene) places() (out []placement.Node) {
	for _, n := range s.nodes {
		out = append(out, placement.Node{ID: n.ID, DataCenter: n.DataCenter, Rack: n.Rack, Capacity: n.Capacity})
	}
	return out
}

func (s *scene) voterNodes() (out []id.Node) {
	for _, r := range s.conf.Voters {
		out = append(out, s.on[id.Replica(r)])
	}
	return out
}

// TestWhatIsUnderWayIsOpen has learners that raft has not heard of since it
// last counted: nothing can be changed at that moment, and yet the group is not
// to fall quiet, since a moment later it can.
func TestWhatIsUnderWayIsOpen(t *testing.T) {
	t.Parallel()
	s := newScene(t, 3, 3, 1, Options{})
	for r := 2; r <= 3; r++ {
		s.on[id.Replica(r)] = s.nodes[r-1].ID
		s.conf.Learners = append(s.conf.Learners, uint64(r))
	}
	s.next = 4
	v := s.survey()
	clear(v.caughtUp)
	if d := v.decide(); len(d.place) > 0 || len(d.change) > 0 || !d.open {
		t.Errorf("place %v, change %v, open %v, waits %q", d.place, d.change, d.open, d.waits)
	}
	s.settle()
	if d := s.survey().decide(); d.open {
		t.Errorf("still open when all is done: %q", d.waits)
	}
}
