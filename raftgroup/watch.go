package raftgroup

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

const (
	// auditPerPing is how many groups a ping asks about: with ten pings a second,
	// ten thousand quiet groups with one leader node are gone through in 16 s.
	auditPerPing = 64
	// wakesPerTick staggers the waking of many groups at once: each may have to
	// elect a leader.
	wakesPerTick = 256
	// nodesInterval is how often, in ticks, the watch looks whether the nodes
	// have changed.
	nodesInterval = 10
	// maxPing bounds what is decoded of a ping or pong.
	maxPing = 64 << 10
)

// nodeWatch stands in for the heartbeats of quiet groups: while any group rests
// on this node, the nodes that those groups rely on (of a follower the
// leader's, of a leader all members') are pinged with every tick. One that is
// silent for an election time-out, which follows the round trip to it (pace.go),
// that answers as another process, or whose connection breaks wakes all groups
// that rely on it, some hundred with each tick. Each ping also names some of the
// groups, in turn: those that its receiver is believed to lead, and those that are
// led here and of which it is believed to have a replica. It answers with those of
// which that is not so: a process that stood still, and goes on, believes what was.
//
// It has a lock of its own, which is held over no call of anybody else's.
type nodeWatch struct {
	mu     sync.Mutex
	peers  []*watchedPeer // ordered by node: a replay must not depend on map order
	due    []dueWake      // in line to be woken
	queued map[*Group]bool

	ticks    int
	lastSeen []Node       // the nodes, as of the last look
	changes  uint64       // how often they were others than before
	quiet    atomic.Int64 // groups that rest; written under mu
}

// watchedPeer is a node that quiet groups of this one rely on.
type watchedPeer struct {
	node        id.Node
	groups      []reliance
	cursor      int    // where the next audit goes on
	silent      int    // pings since it was last heard
	patience    int    // as many silent ones are too many; 0: to be set
	incarnation uint64 // of its process; 0: not heard yet
}

// resting is one quiet group. What an audit says of it stands here: with ten
// thousand of them, each further place that it looked at would be out of the
// processor's cache by the next time.
type resting struct {
	g      *Group
	relies []relied
	quietLed
}

// relied is a node that a quiet group relies on.
type relied struct {
	node    id.Node
	replica id.Replica // the group's there
	at      int        // place in the groups of the watched peer
}

// reliance is what a quiet group relies on one node for: r.relies[i].
type reliance struct {
	r *resting
	i int
}

// quietLed says who leads a quiet group.
type quietLed struct {
	term  uint64
	led   bool   // by another node, the only one that it relies on
	nodes uint64 // the change of the nodes that a leader here had looked at
}

type dueWake struct {
	g       *Group
	doubted id.Node
}

func newNodeWatch() nodeWatch {
	return nodeWatch{queued: make(map[*Group]bool)}
}

// change numbers what is known of the nodes.
func (w *nodeWatch) change() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changes
}

// rest notes that a group, which was awake, falls quiet; false: it must not, since the
// nodes have changed after its leader had looked at them, and whom that wakes was decided.
func (w *nodeWatch) rest(g *Group, relies []relied, by quietLed) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !by.led && by.nodes != w.changes {
		return false
	}
	r := &resting{g: g, relies: relies, quietLed: by}
	for i := range relies {
		p := w.peer(relies[i].node, true)
		relies[i].at = len(p.groups)
		p.groups = append(p.groups, reliance{r, i})
	}
	g.resting = r
	w.quiet.Add(1)
	return true
}

// wake notes that a group is awake, or gone. If it stood in line for that, it does
// no more, and the doubt for which it stood there is returned: later it would
// meet a leader that has been heard again.
func (w *nodeWatch) wake(g *Group) (doubted id.Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queued[g] {
		at := slices.IndexFunc(w.due, func(d dueWake) bool { return d.g == g })
		doubted = w.due[at].doubted
		w.due = slices.Delete(w.due, at, at+1)
		delete(w.queued, g)
	}
	r := g.resting
	if r == nil {
		return doubted
	}
	g.resting = nil
	w.quiet.Add(-1)
	for _, on := range r.relies {
		p := w.peer(on.node, false)
		last := len(p.groups) - 1
		moved := p.groups[last]
		p.groups[on.at] = moved
		moved.r.relies[moved.i].at = on.at
		p.groups[last] = reliance{}
		p.groups = p.groups[:last]
		if last == 0 {
			w.peers = slices.DeleteFunc(w.peers, func(q *watchedPeer) bool { return q == p })
		}
	}
	return doubted
}

func (w *nodeWatch) peer(node id.Node, add bool) *watchedPeer {
	i, ok := slices.BinarySearchFunc(w.peers, node, func(p *watchedPeer, n id.Node) int { return bytes.Compare(p.node[:], n[:]) })
	if ok {
		return w.peers[i]
	}
	if !add {
		return nil
	}
	p := &watchedPeer{node: node}
	w.peers = slices.Insert(w.peers, i, p)
	return p
}

// doubt puts all groups that rely on a node in line to be woken.
func (w *nodeWatch) doubt(node id.Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.peer(node, false); p != nil {
		p.silent = 0
		w.wakeAllLocked(p.quiet(), node)
	}
}

// quiet lists the groups that rely on the node.
func (p *watchedPeer) quiet() []*Group {
	groups := make([]*Group, len(p.groups))
	for i, rel := range p.groups {
		groups[i] = rel.r.g
	}
	return groups
}

// wakeAllLocked puts groups in line, those with subscriptions first.
func (w *nodeWatch) wakeAllLocked(groups []*Group, doubted id.Node) {
	for _, first := range []bool{true, false} {
		for _, g := range groups {
			if g.status.Load().Interactive == first && !w.queued[g] {
				w.queued[g] = true
				w.due = append(w.due, dueWake{g, doubted})
			}
		}
	}
}

// heard notes the answer of a node. Another process than before knows nothing
// of any rest.
func (w *nodeWatch) heard(node id.Node, incarnation uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.peer(node, false)
	if p == nil {
		return
	}
	p.silent = 0
	if p.incarnation != 0 && p.incarnation != incarnation {
		w.wakeAllLocked(p.quiet(), node)
	}
	p.incarnation = incarnation
}

// pingDue is a ping that is to be sent.
type pingDue struct {
	to   id.Node
	asks grouppb.NodePing
}

// impatient lists the nodes of which is to be decided how long they may be
// silent: those that are new here, and with every nodesInterval-th tick all.
func (w *nodeWatch) impatient() (nodes []id.Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.peers {
		if p.patience == 0 || w.ticks%nodesInterval == 0 {
			nodes = append(nodes, p.node)
		}
	}
	return nodes
}

// bear sets how many pings a node may leave without an answer.
func (w *nodeWatch) bear(node id.Node, patience int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.peer(node, false); p != nil {
		p.patience = patience
	}
}

// next counts a tick: what is to be sent, and whom to wake.
func (w *nodeWatch) next() (pings []pingDue, wakes []dueWake) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.peers {
		if p.patience > 0 && p.silent >= p.patience {
			p.silent, p.incarnation = 0, 0
			w.wakeAllLocked(p.quiet(), p.node)
		}
		p.silent++
		pings = append(pings, pingDue{to: p.node, asks: w.auditLocked(p)})
	}
	n := min(len(w.due), wakesPerTick)
	wakes = slices.Clone(w.due[:n])
	w.due = slices.Delete(w.due, 0, n)
	for _, d := range wakes {
		delete(w.queued, d.g)
	}
	return pings, wakes
}

// auditLocked asks about the next groups that p is believed to lead, or to have a
// replica of.
func (w *nodeWatch) auditLocked(p *watchedPeer) (asks grouppb.NodePing) {
	n := min(len(p.groups), auditPerPing)
	about := make([]grouppb.Led, n)
	for i := range about {
		if p.cursor >= len(p.groups) {
			p.cursor = 0
		}
		rel := p.groups[p.cursor]
		p.cursor++
		g, led := rel.r.g, &about[i]
		led.Structure = g.key.Structure[:] // of a group that rests, which is not written to any more
		led.Birth, led.Recovery, led.Term = g.key.Incarnation.Birth, g.key.Incarnation.Recovery, rel.r.term
		if rel.r.led {
			led.Replica = uint64(g.self)
			asks.Led = append(asks.Led, led)
		} else {
			led.Replica = uint64(rel.r.relies[rel.i].replica)
			asks.Leads = append(asks.Leads, led)
		}
	}
	return asks
}

// nodesChanged counts a tick, and tells now and then whether the nodes are
// others than before, or run other processes: pings show those too, but what a
// leader goes by, and may have gone by before, is gossip's word, which may be late. It looks also while nothing rests, so that a group which
// has looked at the nodes before it fell quiet misses no later change.
func (w *nodeWatch) nodesChanged(dir Directory) bool {
	w.mu.Lock()
	w.ticks++
	look := w.ticks%nodesInterval == 1
	w.mu.Unlock()
	if !look {
		return false
	}
	nodes := dir.Nodes()
	slices.SortFunc(nodes, func(a, b Node) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := w.lastSeen != nil && !slices.Equal(w.lastSeen, nodes)
	w.lastSeen = nodes
	if changed {
		w.changes++
	}
	return changed
}

// wakeLeaders puts all quiet groups that are led here in line.
func (w *nodeWatch) wakeLeaders(ordered []*Group) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var led []*Group
	for _, g := range ordered {
		if r := g.resting; r != nil && !r.led {
			led = append(led, g)
		}
	}
	w.wakeAllLocked(led, id.Node{})
}

// allWoken reports whether no group stands in line to be woken.
func (w *nodeWatch) allWoken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.due) == 0
}

// tickWatch is the watch's part of a tick of the host.
func (h *Host) tickWatch() {
	w := &h.watch
	changed := w.nodesChanged(h.dir)
	if w.quiet.Load() == 0 {
		return
	}
	if changed {
		h.mu.Lock()
		ordered := h.replicasLocked()
		h.mu.Unlock()
		w.wakeLeaders(ordered)
	}
	for _, node := range w.impatient() {
		w.bear(node, h.patience(node))
	}
	pings, wakes := w.next()
	for _, p := range pings {
		h.sendNode(p.to, wirePing, &p.asks)
	}
	if len(pings) > 0 {
		h.net.Flush() // no worker does it for the ticker
	}
	for _, d := range wakes {
		d.g.call(func() { d.g.awaken(d.doubted) })
	}
}

// patience is how many ticks a node may be silent for: the shortest election
// time-out over such a round trip.
func (h *Host) patience(node id.Node) int {
	stretch := 1
	if h.cfg.RTT != nil {
		if rtt, known := h.cfg.RTT(node); known {
			stretch = stretchFor(rtt, time.Duration(h.cfg.ElectionTicks)*h.cfg.TickInterval)
		}
	}
	return h.cfg.ElectionTicks * stretch
}

// sendNode sends what is said from host to host: it belongs to no group.
func (h *Host) sendNode(to id.Node, kind byte, m interface{ Marshal() ([]byte, error) }) {
	body, err := m.Marshal()
	if err == nil {
		err = h.net.Send(to, Message{Payload: append([]byte{kind}, body...), Urgent: true})
	}
	if err != nil {
		h.cfg.Logger.Debug("node not pinged", "node", to.String(), "error", err)
	}
}

// handleNode takes what another host says to this one.
func (h *Host) handleNode(from id.Node, payload []byte) error {
	if len(payload) == 0 || len(payload) > maxPing {
		return fmt.Errorf("%w: %d bytes from host to host", errBadMessage, len(payload))
	}
	switch body := payload[1:]; payload[0] {
	case wirePing:
		var m grouppb.NodePing
		if err := m.Unmarshal(body); err != nil {
			return fmt.Errorf("%w: %w", errBadMessage, err)
		}
		return h.answerPing(from, &m)
	case wirePong:
		var m grouppb.NodePong
		if err := m.Unmarshal(body); err != nil {
			return fmt.Errorf("%w: %w", errBadMessage, err)
		}
		h.watch.heard(from, m.Incarnation)
		for _, l := range m.Refused {
			key, err := decodeLed(l)
			if err != nil {
				return err
			}
			if g := h.replica(key); g != nil {
				err := g.heed(0, func() {
					if g.quietness.quiet && g.rn != nil && g.term() == l.Term {
						g.awaken(from)
					}
				})
				if err != nil {
					return err // and is asked about again
				}
			}
		}
		return nil
	}
	return fmt.Errorf("%w: kind %d from host to host", ErrNewerFormat, payload[0])
}

// answerPing says that this process is here, what it does not lead, and whom it
// does not follow. One whose log takes no writes leads nothing that others should
// wait for. To a replica that was removed it does not lead either: one whose
// process stood still meanwhile rests, and nobody else would ever wake it. So does
// a leader that stood still while the others elected another one. A host whose log has failed
// for good is not here: see tickFailedLog.
func (h *Host) answerPing(from id.Node, m *grouppb.NodePing) error {
	if h.logIsGone() {
		return nil
	}
	pong := grouppb.NodePong{Incarnation: h.cfg.Incarnation}
	able := h.log.Health() == nil
	for _, l := range m.Led {
		key, err := decodeLed(l)
		if err != nil {
			return err
		}
		if able {
			if g := h.replica(key); g != nil {
				if st := g.status.Load(); st.IsLeader && st.Term == l.Term && st.has(id.Replica(l.Replica)) {
					continue
				}
			}
		}
		pong.Refused = append(pong.Refused, l)
	}
	for _, l := range m.Leads {
		key, err := decodeLed(l)
		if err != nil {
			return err
		}
		if g := h.replica(key); g != nil {
			if st := g.status.Load(); st.Term <= l.Term && uint64(st.Replica) == l.Replica && !st.Failed {
				continue
			}
		}
		pong.Refused = append(pong.Refused, l)
	}
	h.sendNode(from, wirePong, &pong)
	h.net.Flush()
	return nil
}

// replica returns the replica of exactly this incarnation of a group.
func (h *Host) replica(key id.Group) *Group {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.groups[key]
}

// has reports whether a replica is a member; 0, of a binary that does not say
// who asks, counts as one.
func (st *GroupStatus) has(r id.Replica) bool {
	_, voter := st.Voters[r]
	_, learner := st.Learners[r]
	return voter || learner || r == 0
}

func decodeLed(l *grouppb.Led) (id.Group, error) {
	s, err := id.StructureFromBytes(l.GetStructure())
	if err != nil {
		return id.Group{}, errors.Join(errBadMessage, err)
	}
	return id.Group{Structure: s, Incarnation: id.Incarnation{Birth: l.Birth, Recovery: l.Recovery}}, nil
}
