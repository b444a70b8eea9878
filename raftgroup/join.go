package raftgroup

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/wal"
)

const (
	joinPause    = 250 * time.Millisecond
	maxJoinPause = 5 * time.Second
	// maxJoins bounds the attempts to get a replica that a node makes at the
	// same time. Above, its own wait for their turn, and others' wishes are refused.
	maxJoins = 64
)

// Join has this node get a replica of a structure that lives elsewhere, in the
// background, and goes on trying until it is a member or the host closes.
// hint is a node that may hold one. It returns at once. Each structure that is
// being joined costs a goroutine until it is.
//
// The replica is seeded with the newest snapshot before it is added (design,
// section 6): raft would silently ignore a snapshot whose membership does not
// list the receiver.
func (h *Host) Join(s id.Structure, hint id.Node) error {
	return h.beginJoin(s, hint, joinWish{wanted: true})
}

// joinWish says why a replica is being got. The host's mu guards it.
type joinWish struct {
	wanted bool // by a program or a leader; else only what is here is to become a member
	placed bool // by a leader, and by nobody else
	// How it goes, for the leader that has asked for it.
	attempt time.Time // when the present attempt began; zero: none is under way
	fails   error     // why the last ones have not made a replica here
	since   time.Time // when the first of these ended; none of them got any of the snapshot
}

// stuck says why no replica comes of a join, if it has been so for as long as a
// leader waits for one, and the present attempt has not lasted: one that has may
// get what the others did not.
func (w *joinWish) stuck(now time.Time) error {
	if w.fails == nil || now.Sub(w.since) < placePatience || !w.attempt.IsZero() && now.Sub(w.attempt) >= placePatience {
		return nil
	}
	return w.fails
}

// noteAttempt has a leader that asks for the replica hear how its join goes.
func (h *Host) noteAttempt(w *joinWish, n *newcomer, began bool) {
	now := h.cfg.Clock.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case began:
		w.attempt = now
		return
	case n.fails == nil || n.came:
		w.fails, w.since = nil, time.Time{}
	case w.fails == nil:
		w.since = now
		fallthrough
	default:
		w.fails = n.fails
	}
	w.attempt, n.came, n.fails = time.Time{}, false, nil
}

func (h *Host) beginJoin(s id.Structure, hint id.Node, w joinWish) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.joinableLocked(s); err != nil {
		return err
	}
	if g := h.current[s]; g != nil && g.member.Load() && h.joining[s] == nil {
		if w.placed && g.Status().Failed {
			return fmt.Errorf("structure %s: %w: the replica here has stopped", s, errRefused)
		}
		return nil
	}
	h.beginJoinLocked(s, hint, w)
	return nil
}

// beginJoinLocked begins a join, or says of the one that is under way who wants it too.
func (h *Host) beginJoinLocked(s id.Structure, hint id.Node, w joinWish) {
	if j := h.joining[s]; j != nil {
		j.wanted = j.wanted || w.wanted
		j.placed = j.placed && (w.placed || !w.wanted)
		return
	}
	h.joining[s] = &w
	h.tasks.Go(func() { h.join(s, hint, &w) })
}

// joinEnded takes a join off the list; false: somebody wants it after all.
func (h *Host) joinEnded(s id.Structure, w *joinWish, unwanted bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if unwanted && (w.wanted || h.awaitedLocked(s)) && !h.closed && !h.leaving.Load() {
		return false
	}
	delete(h.joining, s)
	delete(h.unwanted, s)
	return true
}

// placedInVain takes a join that only a leader wanted off the list: that may have
// lost its quorum for good, and the node's places for others are few.
func (h *Host) placedInVain(s id.Structure, w *joinWish) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !w.placed || h.awaitedLocked(s) {
		return false
	}
	delete(h.joining, s)
	delete(h.unwanted, s)
	return true
}

// awaitedLocked reports whether a subscription waits here for a replica to be got.
func (h *Host) awaitedLocked(s id.Structure) bool {
	return slices.ContainsFunc(h.waiting[s], func(sub *Subscription) bool { return !sub.cfg.Passive })
}

// newcomer is a replica that this node is getting and does not have yet: what
// it keeps from one attempt to the next, so that a transfer that was cut goes on
// where it was, and an attempt that failed does not cost another ReplicaID.
// The goroutine of its join owns it.
type newcomer struct {
	structure id.Structure
	hint      id.Node  // who may lead the group
	nonce     [16]byte // names the intent in the log; zero: none yet
	place     *place   // nil: to be asked for, again or for the first time
	local     uint64   // number in the log store, and of the files; 0: none yet
	moved     bool     // by the last attempt: a leader answered, or some of the snapshot came
	came      bool     // by the last attempt: some of the snapshot
	fails     error    // of the last attempt: the group has given a place, and no replica could be made here
}

// place is what a group grants a newcomer, and what it starts from.
type place struct {
	replica  uint64
	record   *grouppb.Genesis
	group    id.Group
	snapshot SnapshotRef // zero: none, the log is whole
	members  []id.Node
}

func decodePlace(s id.Structure, m *grouppb.JoinResponse) (*place, error) {
	genesis, err := decodeGenesis(m.Genesis)
	if err != nil {
		return nil, err
	}
	if genesis.Group.Structure != s {
		return nil, fmt.Errorf("structure %s: %w: answered with %s", s, errBadMessage, genesis.Group)
	}
	members, err := decodeMembers(m.Members)
	if err != nil {
		return nil, err
	}
	ref, err := decodeRef(m.Snapshot)
	if err != nil {
		return nil, err
	}
	return &place{replica: m.Replica, record: m.Genesis, group: genesis.Group, snapshot: ref, members: nodesOf(members)}, nil
}

func (h *Host) join(s id.Structure, hint id.Node, w *joinWish) {
	n := &newcomer{structure: s, hint: hint}
	defer h.letGo(n)
	pause, moved := joinPause, h.cfg.Clock.Now()
	for {
		// A slot is for one attempt: groups that cannot be reached must not
		// keep the others out.
		select {
		case h.joinSlots <- struct{}{}:
		case <-h.ctx.Done():
			h.joinEnded(s, w, false)
			return
		}
		h.noteAttempt(w, n, true)
		err := h.joinOnce(n)
		h.noteAttempt(w, n, false)
		<-h.joinSlots
		if n.moved || errors.Is(err, ErrBusy) {
			n.moved, moved = false, h.cfg.Clock.Now()
		}
		unwanted := errors.Is(err, errUnwanted)
		switch {
		case err == nil || h.ctx.Err() != nil || h.leaving.Load():
			h.joinEnded(s, w, false)
			return
		case errors.Is(err, errGone) && !h.isWaitedFor(s):
			// With a subscription that waits, it may be the next life of the
			// structure that is to be found: the catalog knows, and GiveUp tells.
			h.cfg.Logger.Info("no replica is made of a structure that is gone", "structure", s.String(), "error", err)
			h.joinEnded(s, w, false)
			return
		case unwanted && h.joinEnded(s, w, true):
			return
		case h.cfg.Clock.Now().Sub(moved) >= placePatience && h.placedInVain(s, w):
			h.cfg.Logger.Info("no replica is made: no leader is reached; one that still wants it asks again", "structure", s.String(), "error", err)
			return
		}
		h.cfg.Logger.Debug("not a member yet, will try again", "structure", s.String(), "error", err)
		if !h.sleep(pause) || h.isUnwanted(s) {
			h.joinEnded(s, w, false)
			return
		}
		pause = min(2*pause, maxJoinPause)
	}
}

func (h *Host) isWaitedFor(s id.Structure) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.waiting[s]) > 0
}

func (h *Host) isUnwanted(s id.Structure) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.unwanted[s]
	return ok
}

// letGo forgets a newcomer, and removes what was fetched for it: nobody else
// knows its local number. What a crash leaves behind, the next start removes.
func (h *Host) letGo(n *newcomer) {
	if n.local != 0 {
		if err := h.snaps.RemoveGroup(n.local); err != nil {
			h.cfg.Logger.Warn("files of a replica that was not made are left, until the next start",
				"structure", n.structure.String(), "local", n.local, "error", err)
		}
	}
	n.begin()
}

// begin has the next attempt start anew, with a new ReplicaID.
func (n *newcomer) begin() {
	*n = newcomer{structure: n.structure, hint: n.hint, moved: n.moved, came: n.came}
}

// errGone says that nobody wants this replica any more.
var errGone = errors.New("replica is not wanted any more")

// errUnwanted says that the replica that was here has been removed, and that
// another one is made only if somebody asks for it.
var errUnwanted = errors.New("replica was removed from its group")

// joinOnce makes the replica if it is not here, and has it made a member.
func (h *Host) joinOnce(n *newcomer) error {
	g, ok := h.Group(n.structure)
	if !ok {
		var err error
		if g, err = h.makeReplica(n); err != nil {
			return err
		}
	}
	if g.member.Load() {
		return nil
	}
	index, err := h.log.LastIndex(g.local)
	if err != nil {
		return err
	}
	req := grouppb.ReadyRequest{
		Structure: n.structure[:], Birth: g.key.Incarnation.Birth, Recovery: g.key.Incarnation.Recovery,
		Replica: uint64(g.self), Index: index,
	}
	err = h.askLeader(n.structure, &n.hint, methodReady, &req, &grouppb.ReadyResponse{})
	if errors.Is(err, errRefused) {
		// Seeded too long ago, or given up: start over with a new ReplicaID,
		// unless the log has made this one a member meanwhile.
		removed, rerr := h.remove(h.ctx, g, g.isMember)
		if rerr != nil && !removed {
			return errors.Join(err, rerr)
		}
		if !removed {
			// As far as its own log goes it is a member, so it has joined. If it
			// was removed since, asking its group for that tells (see standing);
			// which waits for as long as this goes on.
			return nil
		}
		err = errors.Join(fmt.Errorf("%w: %w", errUnwanted, err), rerr)
	}
	return err
}

// makeReplica gets a ReplicaID from the group, seeds a replica and starts it.
// After an error it goes on from where it was, with the same newcomer.
func (h *Host) makeReplica(n *newcomer) (*Group, error) {
	if err := h.log.Health(); err != nil {
		return nil, fmt.Errorf("structure %s: new replica: %w", n.structure, err)
	}
	if g, err := h.hereOrBetween(n.structure); g != nil || err != nil {
		return g, err
	}
	if err := h.askForPlace(n); err != nil {
		if errors.Is(err, errRefused) {
			h.letGo(n)
		}
		return nil, err
	}
	if g, err := h.startDecided(n.place); g != nil || err != nil {
		if err == nil {
			h.letGo(n) // the ReplicaID that was asked for is not needed
		}
		return g, err
	}
	if err := h.seed(n); err != nil {
		n.fails = err
		return nil, err
	}
	meta := grouppb.Replica{Replica: n.place.replica, Phase: grouppb.Replica_STARTED, Genesis: n.place.record}
	var seed *SnapshotRef
	if n.place.snapshot.Index != 0 {
		seed = &n.place.snapshot
	}
	g, err := h.create(h.ctx, meta, &n.local, seed)
	if errors.Is(err, wal.ErrDiskFull) {
		h.letGo(n) // nothing was written, and the log store has done with this number
		n.fails = err
		return nil, err
	}
	n.begin() // the files are the log's now: if it did not tell what it holds, the next start does
	return g, err
}

// askForPlace asks the group for a ReplicaID and for what to start from, unless
// it has answered. Asking again gives the same ReplicaID.
func (h *Host) askForPlace(n *newcomer) error {
	if n.place != nil {
		return nil
	}
	if n.nonce == ([16]byte{}) {
		if err := h.random(n.nonce[:]); err != nil {
			return err
		}
	}
	var resp grouppb.JoinResponse
	req := grouppb.JoinRequest{Structure: n.structure[:], Node: h.cfg.Node[:], Nonce: n.nonce[:]}
	err := h.askLeader(n.structure, &n.hint, methodJoin, &req, &resp)
	if err == nil {
		n.moved = true
		n.place, err = decodePlace(n.structure, &resp)
	}
	return err
}

// seed fetches the snapshot that a new replica starts behind, if there is one.
func (h *Host) seed(n *newcomer) error {
	p := n.place
	if n.local == 0 {
		local, err := h.log.NewGroup()
		if err != nil {
			return fmt.Errorf("group %s: new replica: %w", p.group, err)
		}
		n.local = local
	}
	if p.snapshot.Index == 0 {
		return nil
	}
	// What came of an older one goes: nobody offers it any more.
	if err := h.snaps.Retain(n.local, p.snapshot); err != nil {
		return err
	}
	// Nobody else knows this group yet: it only gives the files their place.
	g := &Group{host: h, key: p.group, local: n.local}
	_, came, err := h.fetch(g, p.snapshot, n.hint, p.members)
	n.moved, n.came = n.moved || came > 0, n.came || came > 0
	if err != nil && came == 0 {
		n.place = nil // perhaps nobody has this one any more: ask for the newest
	}
	return err
}

// askLeader asks the leader of a structure's group: the one that is known,
// who that one points to, any holder that gossip knows, or more.
func (h *Host) askLeader(s id.Structure, hint *id.Node, method uint16, req, resp protoMessage, more ...id.Node) error {
	tried := []id.Node{}
	next := slices.Concat([]id.Node{*hint}, h.dir.Holders(s), more)
	errs := []error{fmt.Errorf("structure %s: no leader reached", s)}
	for len(next) > 0 && len(tried) < 16 {
		node := next[0]
		next = next[1:]
		if node.IsZero() || node == h.cfg.Node || slices.Contains(tried, node) {
			continue
		}
		tried = append(tried, node)
		err := h.ask(h.ctx, node, method, req, resp)
		if err == nil {
			*hint = node
			return nil
		}
		errs = append(errs, err)
		var nl *notLeader
		if errors.As(err, &nl) {
			next = append([]id.Node{nl.leader}, next...)
		}
		if errors.Is(err, errRefused) || h.ctx.Err() != nil {
			break
		}
		// A group that is gone may have a successor of the same name elsewhere.
	}
	return errors.Join(errs...)
}
