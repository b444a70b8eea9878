package raftgroup

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// The methods that a host answers. Numbers up to MaxMethod are the host's.
const (
	methodJoin  uint16 = 1 // a node asks a group for a replica of its own
	methodReady uint16 = 2 // the replica is there: make it a member
	methodPlace uint16 = 3 // a leader asks a node to get a replica
	// methodStanding is a replica's question to its group: am I still wanted?
	methodStanding uint16 = 8
	// methodHosting is a leader's question to a node: have you this replica?
	methodHosting uint16 = 9

	methodAlter  uint16 = 16 // change a structure's options
	methodDelete uint16 = 17 // end a structure
	methodLives  uint16 = 18 // which incarnation of a structure lives on a node

	methodEntries uint16 = 24 // a replica that cannot read its log asks for committed entries

	MaxMethod uint16 = 31
)

// The codes of an answer.
const (
	codeOK uint32 = iota
	codeNotLeader
	codeUnknownGroup
	codeRefused
	codeFailed
	codeGone
	codeBusy

	codeInvalidOptions uint32 = 16
)

// HandleCall answers a call of another node's host, or of this one's.
func (h *Host) HandleCall(ctx context.Context, from id.Node, method uint16, request []byte) ([]byte, error) {
	ctx, cancel := h.tasks.Within(ctx, h.cfg.CallTimeout)
	defer cancel()
	var body protoMessage
	var err error
	switch method {
	case methodJoin:
		body, err = h.serveJoin(ctx, request)
	case methodReady:
		body, err = h.serveReady(ctx, request)
	case methodPlace:
		body, err = h.servePlace(from, request)
	case methodAlter:
		body, err = h.serveAlter(ctx, request)
	case methodDelete:
		body, err = h.serveDelete(ctx, request)
	case methodStanding:
		body, err = h.serveStanding(ctx, request)
	case methodHosting:
		body, err = h.serveHosting(request)
	case methodEntries:
		body, err = h.serveEntries(request)
	case methodLives:
		body, err = h.serveLives(request)
	default:
		err = fmt.Errorf("%w: method %d", ErrNewerFormat, method)
	}
	answer := grouppb.Answer{}
	if err == nil {
		answer.Body = make([]byte, body.Size())
		_, err = body.MarshalToSizedBuffer(answer.Body)
	}
	if err != nil {
		answer = answerFor(err)
	}
	return answer.Marshal()
}

// notLeader is ErrNotLeader with a hint who is.
type notLeader struct{ leader id.Node }

func (e *notLeader) Error() string {
	return ErrNotLeader.Error() + "; " + e.leader.String() + " may be"
}
func (e *notLeader) Unwrap() error { return ErrNotLeader }

func answerFor(err error) grouppb.Answer {
	a := grouppb.Answer{Code: codeFailed, Message: err.Error()}
	var nl *notLeader
	switch {
	case errors.As(err, &nl):
		a.Code = codeNotLeader
		if !nl.leader.IsZero() {
			a.Leader = nl.leader[:]
		}
	case errors.Is(err, ErrUnknownGroup):
		a.Code = codeUnknownGroup
	case errors.Is(err, errRefused):
		a.Code = codeRefused
	case errors.Is(err, errGone):
		a.Code = codeGone
	case errors.Is(err, ErrInvalidOptions):
		a.Code = codeInvalidOptions
	case errors.Is(err, ErrBusy):
		a.Code = codeBusy
	}
	return a
}

// remoteError is another host's error: its text, and its kind.
type remoteError struct {
	kind error
	text string
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

// errRefused says that asking the same again is in vain.
var errRefused = errors.New("refused")

// ask calls a method of another host and opens the envelope of its answer.
func (h *Host) ask(ctx context.Context, node id.Node, method uint16, request, response protoMessage) error {
	body := make([]byte, request.Size())
	if _, err := request.MarshalToSizedBuffer(body); err != nil {
		return err
	}
	ctx, cancel := h.tasks.Within(ctx, h.cfg.CallTimeout)
	defer cancel()
	data, err := h.net.Call(ctx, node, method, body)
	if err != nil {
		return err
	}
	var a grouppb.Answer
	if err := a.Unmarshal(data); err != nil {
		return fmt.Errorf("%w: answer: %w", errBadMessage, err)
	}
	switch a.Code {
	case codeOK:
		return response.Unmarshal(a.Body)
	case codeNotLeader:
		nl := &notLeader{}
		if leader, err := id.NodeFromBytes(a.Leader); err == nil {
			nl.leader = leader
		}
		return nl
	case codeUnknownGroup:
		return fmt.Errorf("%w: node %s: %s", ErrUnknownGroup, node, a.Message)
	case codeGone:
		return fmt.Errorf("%w: node %s: %s", errGone, node, a.Message)
	case codeInvalidOptions:
		return &remoteError{kind: ErrInvalidOptions, text: a.Message}
	case codeRefused:
		return fmt.Errorf("%w: node %s: %s", errRefused, node, a.Message)
	case codeBusy:
		return fmt.Errorf("%w: node %s: %s", ErrBusy, node, a.Message)
	}
	return fmt.Errorf("node %s: %s", node, a.Message)
}

// inStep runs f in a group's step and waits for what it gives to reply.
func inStep[T any](ctx context.Context, g *Group, f func(reply func(T, error))) (T, error) {
	answer := newPromise[T]()
	if !g.call(func() { f(answer.keep) }) {
		var zero T
		return zero, fmt.Errorf("group %s: %w", g.key, ErrClosed)
	}
	return answer.await(ctx, g.host.tasks)
}

// requireLeader is nil at the leader.
func (g *Group) requireLeader() error {
	switch {
	case g.failure != nil:
		return g.failure
	case g.isLeader() && g.state.deleted:
		return fmt.Errorf("group %s: %w: %w", g.key, errGone, ErrDeleted)
	case g.isLeader():
		return nil
	case g.state == nil:
		return fmt.Errorf("group %s: %w", g.key, &notLeader{})
	}
	return &notLeader{leader: g.state.members[id.Replica(g.lead)]}
}

func (h *Host) serveJoin(ctx context.Context, request []byte) (protoMessage, error) {
	var req grouppb.JoinRequest
	if err := req.Unmarshal(request); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadMessage, err)
	}
	s, err := id.StructureFromBytes(req.Structure)
	if err != nil {
		return nil, err
	}
	node, err := id.NodeFromBytes(req.Node)
	if err != nil {
		return nil, err
	}
	g, ok := h.Group(s)
	switch {
	case !ok && h.hasEnded(s):
		return nil, fmt.Errorf("structure %s: %w: %w", s, errGone, ErrDeleted)
	case !ok:
		return nil, fmt.Errorf("structure %s: %w", s, ErrUnknownGroup)
	}
	return inStep(ctx, g, func(reply func(protoMessage, error)) { g.joinStep(&req, node, reply) })
}

// joinStep gives out a ReplicaID, by a committed intent, and tells the asker
// what to start from.
func (g *Group) joinStep(req *grouppb.JoinRequest, node id.Node, reply func(protoMessage, error)) {
	if err := g.requireLeader(); err != nil {
		reply(nil, err)
		return
	}
	var nonce [16]byte
	copy(nonce[:], req.Nonce)
	g.await(nonce, func(o outcome, err error) {
		if err == nil && !o.ok {
			err = fmt.Errorf("group %s: %w: no replica for node %s", g.key, errRefused, node)
		}
		if err == nil {
			err = g.requireLeader()
		}
		if err != nil {
			reply(nil, err)
			return
		}
		resp := &grouppb.JoinResponse{Genesis: g.genesis.encode(), Replica: uint64(o.intent), Members: encodeMembers(g.state.members)}
		if g.snaps.held.Index != 0 {
			resp.Snapshot = encodeRef(g.snaps.held)
		}
		reply(resp, nil)
	})
	if err := g.proposeRecord(KindReplicaIntent, &grouppb.ReplicaIntent{Nonce: nonce[:], Node: node[:], Seed: g.snaps.held.Index}); err != nil {
		delete(g.waiters, nonce)
		reply(nil, err)
	}
}

// await has done called when the record with this nonce is applied, or when
// waiting makes no sense any more.
func (g *Group) await(nonce [16]byte, done func(outcome, error)) {
	if g.waiters == nil {
		g.waiters = make(map[[16]byte]waiter)
	}
	g.waiters[nonce] = waiter{until: g.now.Add(g.host.cfg.CallTimeout), done: done}
}

// expireWaiters tells those whose record did not come that it may have been lost.
func (g *Group) expireWaiters() {
	for n, w := range g.waiters {
		if g.now.After(w.until) {
			delete(g.waiters, n)
			w.done(outcome{}, fmt.Errorf("group %s: %w", g.key, context.DeadlineExceeded))
		}
	}
	g.expireReads()
}

func (h *Host) serveReady(ctx context.Context, request []byte) (protoMessage, error) {
	var req grouppb.ReadyRequest
	if err := req.Unmarshal(request); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadMessage, err)
	}
	s, err := id.StructureFromBytes(req.Structure)
	if err != nil {
		return nil, err
	}
	key := id.Group{Structure: s, Incarnation: id.Incarnation{Birth: req.Birth, Recovery: req.Recovery}}
	h.mu.Lock()
	g := h.groups[key]
	h.mu.Unlock()
	if g == nil {
		return nil, fmt.Errorf("group %s: %w", key, ErrUnknownGroup)
	}
	return inStep(ctx, g, func(reply func(protoMessage, error)) { g.readyStep(&req, reply) })
}

// readyStep makes a replica that exists and is seeded a learner of its group.
func (g *Group) readyStep(req *grouppb.ReadyRequest, reply func(protoMessage, error)) {
	if err := g.requireLeader(); err != nil {
		reply(nil, err)
		return
	}
	if inConf(g.state.conf, req.Replica) {
		reply(&grouppb.ReadyResponse{}, nil)
		return
	}
	if !g.state.mayAdd(req.Replica) {
		g.refuseReplica(req.Replica, "its ID was abandoned", reply)
		return
	}
	if g.leader.changePending(g.now) || isJoint(g.state.conf) {
		reply(nil, fmt.Errorf("group %s: %w: another membership change is under way", g.key, ErrBusy))
		return
	}
	first, err := g.store.FirstIndex()
	if err != nil {
		reply(nil, err)
		return
	}
	if first > req.Index+1 {
		g.refuseReplica(req.Replica, fmt.Sprintf("the log begins at %d, it needs it from %d", first, req.Index+1), reply)
		return
	}
	var nonce [16]byte
	if err := g.host.random(nonce[:]); err != nil {
		reply(nil, err)
		return
	}
	g.await(nonce, func(o outcome, err error) {
		if err == nil && !o.ok {
			err = fmt.Errorf("group %s: membership change for replica %d had no effect", g.key, req.Replica)
		}
		reply(&grouppb.ReadyResponse{}, err)
	})
	cc := &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: new(req.Replica)}}}
	if err := g.proposeConf(cc, nonce); err != nil {
		delete(g.waiters, nonce)
		reply(nil, err)
	}
}

// refuseReplica gives up a ReplicaID, by a committed record, and then says so:
// a leader that is deposed and does not know it, or does not know yet what its
// log holds, must not talk a replica into deleting itself.
func (g *Group) refuseReplica(replica uint64, why string, reply func(protoMessage, error)) {
	var nonce [16]byte
	if err := g.host.random(nonce[:]); err != nil {
		reply(nil, err)
		return
	}
	g.await(nonce, func(_ outcome, err error) {
		switch {
		case err != nil:
			reply(nil, err)
		case inConf(g.state.conf, replica):
			reply(&grouppb.ReadyResponse{}, nil)
		default:
			reply(nil, fmt.Errorf("group %s: %w: replica %d: %s", g.key, errRefused, replica, why))
		}
	})
	if err := g.proposeRecord(KindIntentAbandon, &grouppb.IntentAbandon{Replica: replica, Nonce: nonce[:]}); err != nil {
		delete(g.waiters, nonce)
		reply(nil, err)
	}
}

// askToHost asks a node, without waiting, to get a replica of a group, unless
// it is being asked.
func (h *Host) askToHost(g *Group, node id.Node) {
	s := g.key.Structure
	h.jobs.calls.addAlone(hostRequest{node, s}, func() {
		err := h.ask(h.ctx, node, methodPlace, &grouppb.PlaceRequest{Structure: s[:]}, &grouppb.PlaceResponse{})
		if err != nil {
			h.cfg.Logger.Debug("node does not take a replica now", "node", node.String(), "structure", s.String(), "error", err)
		}
		g.call(func() { g.leader.care.onPlaced(g, node, err) })
	})
}

func (h *Host) servePlace(from id.Node, request []byte) (protoMessage, error) {
	var req grouppb.PlaceRequest
	if err := req.Unmarshal(request); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadMessage, err)
	}
	s, err := id.StructureFromBytes(req.Structure)
	if err != nil {
		return nil, err
	}
	if h.leaving.Load() {
		return nil, fmt.Errorf("structure %s: %w: this node leaves", s, errRefused)
	}
	if err := h.log.Health(); err != nil {
		return nil, fmt.Errorf("structure %s: %w: %w", s, errRefused, err)
	}
	h.mu.Lock()
	j, already := h.joining[s]
	var stuck error
	if already {
		stuck = j.stuck(h.cfg.Clock.Now())
	}
	placed := 0
	for _, j := range h.joining {
		if j.placed {
			placed++
		}
	}
	joining := len(h.joining)
	h.mu.Unlock()
	if stuck != nil {
		return nil, fmt.Errorf("structure %s: %w: none can be made: %w", s, errRefused, stuck)
	}
	if !already && (joining >= maxJoins || placed >= maxPlaced) {
		return nil, fmt.Errorf("structure %s: %w: %d replicas are being made", s, ErrBusy, joining) // the leader asks again
	}
	return &grouppb.PlaceResponse{}, h.beginJoin(s, from, joinWish{wanted: true, placed: true})
}
