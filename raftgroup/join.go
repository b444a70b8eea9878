package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
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
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("structure %s: %w", s, ErrClosed)
	}
	if _, ok := h.joining[s]; ok {
		return nil
	}
	if g := h.current[s]; g != nil && g.member.Load() {
		return nil
	}
	h.joining[s] = struct{}{}
	h.joins.Go(func() {
		h.join(s, hint)
		h.mu.Lock()
		delete(h.joining, s)
		h.mu.Unlock()
	})
	return nil
}

func (h *Host) join(s id.Structure, hint id.Node) {
	pause := joinPause
	for {
		// A slot is for one attempt: groups that cannot be reached must not
		// keep the others out.
		select {
		case h.joinSlots <- struct{}{}:
		case <-h.ctx.Done():
			return
		}
		err := h.joinOnce(s, &hint)
		<-h.joinSlots
		if err == nil || h.ctx.Err() != nil {
			return
		}
		h.cfg.Logger.Debug("not a member yet, will try again", "structure", s.String(), "error", err)
		if errors.Is(err, errGone) {
			return
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-h.ctx.Done():
			t.Stop()
			return
		}
		pause = min(2*pause, maxJoinPause)
	}
}

// errGone says that nobody wants this replica any more.
var errGone = errors.New("replica is not wanted any more")

// joinOnce makes the replica if it is not here, and has it made a member.
func (h *Host) joinOnce(s id.Structure, hint *id.Node) error {
	g, ok := h.Group(s)
	if !ok {
		var err error
		if g, err = h.makeReplica(s, hint); err != nil {
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
		Structure: s[:], Birth: g.key.Incarnation.Birth, Recovery: g.key.Incarnation.Recovery,
		Replica: uint64(g.self), Index: index,
	}
	err = h.askLeader(s, hint, methodReady, &req, &grouppb.ReadyResponse{})
	if errors.Is(err, errRefused) {
		// Seeded too long ago, or given up: start over with a new ReplicaID,
		// unless the log has made this one a member meanwhile.
		if _, rerr := h.remove(h.ctx, g, g.isMember); rerr != nil {
			return errors.Join(err, rerr)
		}
	}
	return err
}

// makeReplica gets a ReplicaID from the group, seeds a replica and starts it.
func (h *Host) makeReplica(s id.Structure, hint *id.Node) (*Group, error) {
	var nonce [16]byte
	if err := h.random(nonce[:]); err != nil {
		return nil, err
	}
	var resp grouppb.JoinResponse
	req := grouppb.JoinRequest{Structure: s[:], Node: h.cfg.Node[:], Nonce: nonce[:]}
	if err := h.askLeader(s, hint, methodJoin, &req, &resp); err != nil {
		return nil, err
	}
	genesis, err := decodeGenesis(resp.Genesis)
	if err != nil {
		return nil, err
	}
	if genesis.Group.Structure != s {
		return nil, fmt.Errorf("structure %s: %w: answered with %s", s, errBadMessage, genesis.Group)
	}
	members, err := decodeMembers(resp.Members)
	if err != nil {
		return nil, err
	}
	local, err := h.log.NewGroup()
	if err != nil {
		return nil, fmt.Errorf("group %s: new replica: %w", genesis.Group, err)
	}
	meta := grouppb.Replica{Replica: resp.Replica, Phase: grouppb.Replica_STARTED, Genesis: resp.Genesis}
	var seed *SnapshotRef
	if resp.Snapshot != nil {
		ref, err := decodeRef(resp.Snapshot)
		if err != nil {
			return nil, err
		}
		if err := h.seed(local, genesis, ref, *hint, members); err != nil {
			return nil, err
		}
		seed = &ref
	}
	return h.create(h.ctx, meta, &local, seed)
}

// seed fetches the snapshot that a new replica starts behind.
func (h *Host) seed(local uint64, genesis Genesis, ref SnapshotRef, leader id.Node, members map[id.Replica]id.Node) error {
	var nodes []id.Node
	for _, n := range members {
		nodes = append(nodes, n)
	}
	// Nobody else knows this group yet: it only gives the files their place.
	g := &Group{host: h, key: genesis.Group, local: local, genesis: genesis}
	_, err := h.fetch(g, ref, leader, nodes)
	return err
}

// askLeader asks the leader of a structure's group: the one that is known,
// who that one points to, or any holder that gossip knows.
func (h *Host) askLeader(s id.Structure, hint *id.Node, method uint16, req, resp protoMessage) error {
	tried := []id.Node{}
	next := append([]id.Node{*hint}, h.dir.Holders(s)...)
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
		if errors.Is(err, errRefused) || errors.Is(h.ctx.Err(), context.Canceled) {
			break
		}
	}
	return errors.Join(errs...)
}
