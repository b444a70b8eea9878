package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/catalogpb"
	"github.com/copycat-replication/copycat/raftgroup"
)

// The methods that the service answers. Lower numbers are the host's.
const (
	MinMethod     uint16 = 32
	methodPrepare uint16 = 32 // make a replica for a birth that is not decided
	methodStart   uint16 = 33 // it is decided: start it
	methodDiscard uint16 = 34 // it is lost: remove it
	methodCommand uint16 = 35 // have a command committed
	methodLookup  uint16 = 36 // tell a record
	methodList    uint16 = 37 // tell the records of structures that live
	// methodCommand2 is methodCommand for commands of version 2, which a node of
	// version 1 would read wrongly.
	methodCommand2 uint16 = 38
	MaxMethod      uint16 = 63
)

// The codes of an answer.
const (
	codeOK uint32 = iota
	codeFailed
	codeInvalid
	codeNotHolder
	codeBusy
	codeNewer
	codeClosed
)

// codes pairs the errors that survive a call with their codes.
var codes = []struct {
	code uint32
	err  error
}{
	{codeInvalid, ErrInvalid},
	{codeNotHolder, errNotHolder},
	{codeBusy, ErrBusy},
	{codeNewer, ErrNewerFormat},
	{codeClosed, ErrClosed},
}

// HandleCall answers a call of another node's service. It blocks until it has
// an answer, at most for Config.CallTimeout. Errors travel inside the answer;
// an error of its own means that there is none.
func (s *Service) HandleCall(ctx context.Context, from id.Node, method uint16, request []byte) ([]byte, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	// A little less than the caller waits, so that it hears why.
	ctx, done := s.tasks.Within(ctx, s.cfg.CallTimeout-s.cfg.CallTimeout/8)
	defer done()
	body, err := s.serve(ctx, from, method, request)
	if err != nil && s.ctx.Err() != nil {
		err = ErrClosed
	}
	a := catalogpb.Answer{}
	if err == nil {
		a.Body = make([]byte, body.Size())
		_, err = body.MarshalToSizedBuffer(a.Body)
	}
	if err != nil {
		s.log.Debug("call not served", "from", from.String(), "method", method, "error", err)
		a = catalogpb.Answer{Code: codeFailed, Message: err.Error()}
		for _, c := range codes {
			if errors.Is(err, c.err) {
				a.Code = c.code
				break
			}
		}
	}
	return marshal(callMagic, callVersion, &a)
}

func (s *Service) serve(ctx context.Context, from id.Node, method uint16, request []byte) (protoMessage, error) {
	select {
	case s.served <- struct{}{}:
		defer func() { <-s.served }()
	default:
		return nil, fmt.Errorf("%w: %d requests of others", ErrBusy, cap(s.served))
	}
	switch method {
	case methodPrepare:
		return s.servePrepare(ctx, request)
	case methodStart:
		return s.serveStart(ctx, from, request)
	case methodDiscard:
		return s.serveDiscard(ctx, request)
	case methodCommand:
		return s.serveCommand(ctx, request, 1)
	case methodCommand2:
		return s.serveCommand(ctx, request, 2)
	case methodList:
		return s.serveList(request)
	case methodLookup:
		return s.serveLookup(request)
	}
	return nil, fmt.Errorf("%w: method %d", ErrNewerFormat, method)
}

func (s *Service) servePrepare(ctx context.Context, request []byte) (protoMessage, error) {
	var m catalogpb.PrepareRequest
	if err := unmarshal(callMagic, callVersion, request, &m); err != nil {
		return nil, err
	}
	genesis, err := decodeGenesis(m.Genesis)
	if err != nil {
		return nil, err
	}
	return &catalogpb.Empty{}, s.prepareHere(ctx, genesis)
}

// prepareHere makes this node's replica of a birth, if it is one of its nodes.
func (s *Service) prepareHere(ctx context.Context, genesis raftgroup.Genesis) error {
	named := false
	for _, n := range genesis.Members {
		named = named || n == s.cfg.Node
	}
	if !named {
		return fmt.Errorf("%w: node %s is none of the first members of structure %s", ErrInvalid, s.cfg.Node, genesis.Group.Structure)
	}
	if n := len(s.cfg.Engine.Prepared()); n >= s.cfg.MaxPrepared {
		return fmt.Errorf("%w: %d prepared replicas", ErrBusy, n)
	}
	return s.cfg.Engine.Prepare(ctx, genesis)
}

// serveStart starts what was prepared here, and only that: a node that lost its
// directory, or whose replica was moved away since, does not make it anew.
func (s *Service) serveStart(ctx context.Context, from id.Node, request []byte) (protoMessage, error) {
	var m catalogpb.StartRequest
	if err := unmarshal(callMagic, callVersion, request, &m); err != nil {
		return nil, err
	}
	token, err := decodeToken(m.Token)
	if err != nil {
		return nil, err
	}
	structure, err := decodeStructure(m.Structure)
	if err != nil {
		return nil, err
	}
	if m.Birth == 0 {
		return nil, fmt.Errorf("%w: start without a birth", ErrInvalid)
	}
	p, ok := s.preparedUnder(token)
	if !ok {
		s.log.Debug("nothing to start", "structure", structure.String(), "from", from.String())
		return &catalogpb.Empty{}, nil
	}
	if p.Genesis.Group.Structure != structure {
		return nil, fmt.Errorf("%w: the token is that of structure %s, not of %s", ErrInvalid, p.Genesis.Group.Structure, structure)
	}
	return &catalogpb.Empty{}, s.cfg.Engine.StartPrepared(ctx, token, id.Incarnation{Birth: m.Birth, Recovery: m.Recovery})
}

func (s *Service) preparedUnder(token raftgroup.Token) (raftgroup.PreparedReplica, bool) {
	all := s.cfg.Engine.Prepared()
	i := slices.IndexFunc(all, func(p raftgroup.PreparedReplica) bool { return p.Genesis.Token == token })
	if i < 0 {
		return raftgroup.PreparedReplica{}, false
	}
	return all[i], true
}

func (s *Service) serveDiscard(ctx context.Context, request []byte) (protoMessage, error) {
	var m catalogpb.DiscardRequest
	if err := unmarshal(callMagic, callVersion, request, &m); err != nil {
		return nil, err
	}
	token, err := decodeToken(m.Token)
	if err != nil {
		return nil, err
	}
	return &catalogpb.Empty{}, s.cfg.Engine.DiscardPrepared(ctx, token)
}

func (s *Service) serveCommand(ctx context.Context, request []byte, version byte) (protoMessage, error) {
	var m catalogpb.Command
	if err := unmarshal(callMagic, callVersion, request, &m); err != nil {
		return nil, err
	}
	c, err := fromProto(&m, version)
	if err != nil {
		return nil, err
	}
	res, err := s.commit(ctx, c)
	if err != nil {
		return nil, err
	}
	return encodeResult(res), nil
}

func (s *Service) serveLookup(request []byte) (protoMessage, error) {
	var m catalogpb.LookupRequest
	if err := unmarshal(callMagic, callVersion, request, &m); err != nil {
		return nil, err
	}
	structure, err := decodeStructure(m.Structure)
	if err != nil {
		return nil, err
	}
	rec, index, err := s.localRecord(structure)
	if err != nil {
		return nil, err
	}
	resp := &catalogpb.LookupResponse{Index: index}
	if rec.Incarnation.Birth != 0 {
		resp.Record = rec.encode()
	}
	return resp, nil
}

// call asks another node's service once, and opens the envelope of its answer.
func (s *Service) call(ctx context.Context, node id.Node, method uint16, request, response protoMessage) error {
	data, err := marshal(callMagic, callVersion, request)
	if err != nil {
		return fmt.Errorf("encode call: %w", err)
	}
	if data, err = s.cfg.Network.Call(ctx, node, method, data); err != nil {
		return err
	}
	var a catalogpb.Answer
	if err := unmarshal(callMagic, callVersion, data, &a); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if a.Code == codeOK {
		return response.Unmarshal(a.Body)
	}
	for _, c := range codes {
		if c.code == a.Code {
			return &remoteError{kind: c.err, message: a.Message}
		}
	}
	return errors.New(a.Message)
}

// remoteError is an error of another node's service: its text, and its kind.
type remoteError struct {
	kind    error
	message string
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.kind }
