package raftgroup

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// What subscribers of a story do, and what a story commits that nobody in it
// would commit just now.

// subscribe NAME on=N [has=WORD] [timeout=D] [window=BYTES]
func (tl *teller) subscribe(t testing.TB, d *datadriven.TestData, name string) error {
	s := tl.s
	p := &player{s: s, name: name, node: tl.node(t, d, value(d, "on", "1"))}
	if has := value(d, "has", ""); has != "" {
		p.words = strings.Fields(has)
	}
	cfg := SubscriptionConfig{Structure: s.genesis.Group.Structure, Provider: p.provide, Window: int64(number(t, d, "window", 0))}
	if timeout := value(d, "timeout", ""); timeout != "" {
		cfg.ProposalTimeout = duration(t, d, timeout)
	}
	var err error
	if p.m, err = p.node.host.SubscribeManually(cfg); err != nil {
		return err
	}
	s.players = append(s.players, p)
	s.settle()
	return nil
}

func (p *player) provide() ([]byte, error) {
	p.asked = true
	if p.fails {
		return nil, errors.New("the provider has a bad day")
	}
	return []byte(strings.Join(p.words, " ")), nil
}

func (tl *teller) propose(p *player, ws []string) error {
	for _, w := range ws {
		if err := p.m.Offer(unspoken(w)); err != nil {
			return err
		}
	}
	tl.s.settle()
	return nil
}

// read NAME [most=N] [answers=WORD]: takes what is delivered, and applies it.
// With answers, each commit that is no answer is answered from the same loop,
// which does not go on before there is room for the answer.
func (tl *teller) read(t testing.TB, d *datadriven.TestData, p *player) error {
	most, answer := number(t, d, "most", 1<<30), value(d, "answers", "")
	var got []string
	waited := 0
	flush := func() {
		switch {
		case len(got) > 8:
			tl.say("%d commits: %s %s … %s", len(got), got[0], got[1], got[len(got)-1])
		case len(got) > 0:
			tl.say("%s", strings.Join(got, " "))
		}
		got = nil
	}
	tl.s.settle()
	for range most {
		c, ok, ended := p.m.Poll()
		if ended {
			flush()
			tl.say("the end")
			return nil
		}
		if !ok {
			break
		}
		if c == nil {
			flush()
			tl.load(p)
			continue
		}
		got = append(got, spoken(c))
		p.words = append(p.words, spoken(c))
		if answer == "" || strings.HasPrefix(string(c), answer) {
			continue
		}
		tries := 0
		for p.m.Offer(append([]byte(answer), c...)) != nil {
			if tries++; tries > 1 {
				return fmt.Errorf("the window is full, and nothing makes room: the answer to %s is stuck", c)
			}
			tl.s.settle() // the loop stands here, and reads nothing, until there is room
		}
		waited += tries
	}
	flush()
	if waited > 0 {
		tl.say("(the window was full before %d of the answers)", waited)
	}
	if tl.out.Len() == 0 {
		tl.say("nothing")
	}
	return nil
}

// load answers a nil.
func (tl *teller) load(p *player) {
	p.asked = false
	data, err := p.m.Consume()
	if err != nil {
		tl.say("nil: %v", err)
		return
	}
	p.words = strings.Fields(string(data))
	shown := string(data)
	switch {
	case len(p.words) == 0:
		shown = spoken(data)
	case len(p.words) > 8:
		shown = fmt.Sprintf("%d words, %s … %s", len(p.words), p.words[0], p.words[len(p.words)-1])
	}
	if p.asked {
		tl.say("nil: makes a snapshot of %s", shown)
	} else {
		tl.say("nil: loads %s", shown)
	}
	tl.s.settle()
}

func (tl *teller) errors(p *player) {
	for {
		err, ok := p.m.NextError()
		if !ok {
			break
		}
		var pe *ProposalError
		switch {
		case !errors.As(err, &pe):
			tl.say("%s", sentinel(err))
		default:
			tl.say("%s: %s", spoken(pe.Proposal), sentinel(err))
		}
		tl.s.settle()
	}
	if tl.out.Len() == 0 {
		tl.say("none")
	}
}

// sentinel is the typed error behind an error: its text must not make a story.
func sentinel(err error) error {
	for _, known := range []error{
		ErrNeverCommitted, ErrProposalExpired, ErrOutcomeUnknown, ErrSessionEnded, ErrTooManySessions, ErrGroupFailed, ErrProvider,
	} {
		if errors.Is(err, known) {
			return known
		}
	}
	return err
}

// inject has the leader propose a record that its duties would propose at
// another time, or a peer's that never would:
//
//	inject expire NAME            the session, with the last number that the leader knows
//	inject request NAME           a snapshot by that session, of this place
//	inject announce NAME [made=N] an announcement of another file for the newest snapshot's place
//	inject sessions N             so many, each of which ends the one before
//	inject voters N -N …          a joint change that makes voters of these replicas, and removes those
func (tl *teller) inject(t testing.TB, d *datadriven.TestData, w []string) error {
	s := tl.s
	leader := s.leader()
	if leader == nil {
		return ErrNotLeader
	}
	var failed error
	err := s.inStep(leader, func(g *Group) {
		var session uint64
		for ss, name := range s.names {
			if name == w[1] {
				session = max(session, ss)
			}
		}
		switch w[0] {
		case "expire":
			last, _, _ := g.state.sessions.last(session)
			failed = g.proposeRecord(KindSessionExpire, &grouppb.SessionExpire{Session: session, Last: last})
		case "request":
			failed = g.proposeRecord(KindSnapshotRequest, &grouppb.SnapshotRequest{Session: session})
		case "announce":
			ref := g.state.announced.ref
			ref.Maker, ref.Checksum = session, [32]byte(bytes.Repeat([]byte{9}, 32))
			node := nodeN(number(t, d, "from", 1))
			failed = g.proposeRecord(KindSnapshotAnnounce, &grouppb.SnapshotAnnounce{Ref: encodeRef(ref), Node: node[:]})
		case "sessions":
			n, err := strconv.Atoi(w[1])
			for i := 0; i < n && err == nil && failed == nil; i++ {
				stranger := nodeN(99)
				nonce := fmt.Appendf(nil, "%16d", i)
				failed = g.proposeRecord(KindSessionOpen, &grouppb.SessionOpen{Nonce: nonce, Node: stranger[:], Incarnation: uint64(i + 1)})
			}
			failed = errors.Join(failed, err)
		case "voters":
			cc := &raftpb.ConfChangeV2{}
			for _, r := range w[1:] {
				typ := raftpb.ConfChangeAddNode
				if strings.HasPrefix(r, "-") {
					typ = raftpb.ConfChangeRemoveNode
				}
				n, err := strconv.ParseUint(strings.TrimPrefix(r, "-"), 10, 64)
				if err != nil {
					failed = err
					return
				}
				cc.Changes = append(cc.Changes, single(typ, id.Replica(n)))
			}
			failed = g.proposeConf(cc, [16]byte{})
		default:
			d.Fatalf(t, "inject what?")
		}
	})
	s.settle()
	return errors.Join(err, failed)
}
