package raftgroup

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// What a story shows: the log as the production code decides it, what
// subscribers get, what lies on the network.

// spoken is a payload as a story writes it.
func spoken(p []byte) string {
	if len(p) == 0 {
		return "<empty>"
	}
	if len(p) > 100 {
		return string(bytes.TrimRight(p, ".")) + "…"
	}
	return string(p)
}

func unspoken(w string) []byte {
	switch w {
	case "<empty>":
		return []byte{}
	case "<nil>":
		return nil
	}
	return []byte(w)
}

// whose names a session.
func (s *stage) whose(session uint64) string {
	if name, ok := s.names[session]; ok {
		return name
	}
	return "nobody"
}

func span(first, count uint64) string {
	if count == 1 {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d..%d", first, first+count-1)
}

// log tells the committed entries of a node's log that were not told yet, and
// what each means: the applied state of a replica decides it, anew.
func (tl *teller) log(t testing.TB, d *datadriven.TestData) error {
	s := tl.s
	n, all := s.nodes[0], false
	if d != nil {
		n, all = tl.node(t, d, value(d, "on", "1")), slices.Contains(words(d), "all")
	}
	g, ok := n.host.Group(s.genesis.Group.Structure)
	if !ok {
		return ErrUnknownGroup
	}
	first, err := g.store.FirstIndex()
	if err != nil {
		return err
	}
	st := newState(g.key, g.genesis.Members, g.genesis.Options)
	if held := g.files.names()[0]; first > 1 || (held.Index > 0 && !all) {
		if st, err = n.host.snapshotState(g, held); err != nil {
			return err
		}
		if st.index > s.told {
			tl.say("up to N = %d in a snapshot", st.commits)
			s.told = st.index
		}
	}
	if all {
		s.told = st.index
	}
	for st.index < g.applied.Load() {
		entries, err := g.store.entries(st.index+1, g.applied.Load()+1, 1<<30)
		if err != nil {
			return err
		}
		for _, e := range entries {
			o, err := st.apply(e)
			if err != nil {
				return err
			}
			if o.index > s.told {
				tl.entry(st, &o, e)
				s.told = o.index
			}
		}
	}
	tl.sayDropped()
	return nil
}

// entry tells what one entry meant. Raft's own are left out.
func (tl *teller) entry(st *state, o *outcome, e *raftpb.Entry) {
	s := tl.s
	if o.kind == KindBatch && o.verdict != verdictCounts {
		tl.dropped = append(tl.dropped, fmt.Sprintf("%s %s", s.batch(&o.batch), s.verdict(st, o)))
		return
	}
	tl.sayDropped()
	switch {
	case o.kind == KindBatch:
		tl.say("%s %s", s.batch(&o.batch), s.verdict(st, o))
	case o.kind == KindSessionOpen && o.repeated:
		tl.say("another open with the nonce of a session that lives: opens nothing")
	case o.kind == KindSessionOpen && o.ok:
		tl.say("a session is opened on node %d: %s's", nodeNumber(o.node), s.whose(o.session))
		for _, ended := range o.ended {
			tl.say("  which ends the session of %s", s.whose(ended))
		}
	case o.kind == KindSessionOpen:
		tl.say("a session on node %d is refused: too many", nodeNumber(o.node))
	case o.kind == KindSessionClose:
		tl.say("the session of %s is closed%s", s.whose(o.session), void(o.ok))
	case o.kind == KindSessionExpire:
		tl.say("the session of %s is expired%s", s.whose(o.session), void(o.ok))
	case o.kind == KindBase && o.ok:
		tl.say("base: %s brings %s", s.whose(o.session), spoken(o.base))
	case o.kind == KindBase:
		tl.say("base of %s: there is one already", s.whose(o.session))
	case o.kind == KindSnapshotRequest:
		tl.say("%s is asked for a snapshot of N = %d%s", s.whose(o.session), st.commits, void(o.ok))
	case o.kind == KindSnapshotAnnounce:
		tl.announced(st, o, e)
	case o.kind == KindReplicaIntent && o.ok:
		tl.say("node %d may have replica %d", nodeNumber(o.node), o.intent)
	case o.kind == KindIntentAbandon:
		tl.say("replica %d is given up%s", o.intent, void(o.ok))
	case o.kind == KindDeleted:
		tl.say("the structure is deleted%s", void(o.ok))
	case o.conf != nil:
		tl.say("members: %s", spokenConf(st.conf))
	}
}

// sayDropped tells the batches in a row that did not count.
func (tl *teller) sayDropped() {
	tl.sayMany(tl.dropped)
	tl.dropped = nil
}

// sayMany tells lines; of many, the first and the last.
func (tl *teller) sayMany(lines []string) {
	for i, line := range lines {
		switch rest := len(lines) - 2; {
		case rest <= 2 || i == 0 || i == rest+1:
			tl.say("%s", line)
		case i == 1:
			tl.say("… %d more …", rest)
		}
	}
}

func void(ok bool) string {
	if ok {
		return ""
	}
	return ": void"
}

func (tl *teller) announced(st *state, o *outcome, e *raftpb.Entry) {
	var m grouppb.SnapshotAnnounce
	if err := decodeRecord(e.GetData(), &m); err != nil {
		tl.say("announcement that cannot be read: %v", err)
		return
	}
	why := ""
	switch {
	case o.ok:
	case m.Ref.Index == st.announced.ref.Index:
		why = ": there is one of that place already"
	default:
		why = ": void"
	}
	tl.say("snapshot of N = %d announced by node %d, made by %s%s", m.Ref.Commits, nodeNumber(id.Node(m.Node)), tl.s.whose(m.Ref.Maker), why)
}

func (s *stage) batch(b *batch) string {
	var out []string
	body := b.body
	for i := range b.count {
		if b.void(i) {
			out = append(out, "void")
			continue
		}
		out = append(out, spoken(body[:b.length(i)]))
		body = body[b.length(i):]
	}
	shown := strings.Join(out, " ")
	if len(out) > 5 {
		shown = fmt.Sprintf("%s … %s", out[0], out[len(out)-1])
	}
	return fmt.Sprintf("%s %s (%s):", s.whose(b.session), span(b.first, uint64(b.count)), shown)
}

func (s *stage) verdict(st *state, o *outcome) string {
	switch o.verdict {
	case verdictGap:
		return "a gap, dropped whole"
	case verdictUnknown:
		return "of no live session, dropped"
	case verdictDuplicate:
		return "duplicate, dropped"
	}
	counts := st.commits - o.firstN + 1
	was := ""
	if dup := o.from - o.batch.first; dup > 0 {
		was = fmt.Sprintf("%s duplicate, ", span(o.batch.first, dup))
	}
	if counts == 0 {
		return was + span(o.from, uint64(o.batch.count)-(o.from-o.batch.first)) + " void, settled"
	}
	return was + "N = " + span(o.firstN, counts)
}

func nodeNumber(n id.Node) int { return int(binary.BigEndian.Uint64(n[8:])) }

func spokenConf(c *raftpb.ConfState) string {
	out := "voters " + strings.Trim(fmt.Sprint(c.GetVoters()), "[]")
	if isJoint(c) {
		out += " joint with " + strings.Trim(fmt.Sprint(c.GetVotersOutgoing()), "[]")
	}
	if len(c.GetLearners()) > 0 {
		out += ", learners " + strings.Trim(fmt.Sprint(c.GetLearners()), "[]")
	}
	return out
}

func (tl *teller) sessions(n *stageNode) error {
	return tl.s.inStep(n, func(g *Group) {
		for _, ss := range g.state.sessions.sorted() {
			tl.say("%s on node %d: last %d", tl.s.whose(ss.id), nodeNumber(ss.node), ss.last)
		}
		if tl.out.Len() == 0 {
			tl.say("none")
		}
	})
}

func (tl *teller) members(n *stageNode) error {
	return tl.s.inStep(n, func(g *Group) {
		tl.say("%s", spokenConf(g.state.conf))
		for _, r := range slices.Sorted(maps.Keys(g.state.members)) {
			if r != id.Replica(nodeNumber(g.state.members[r])) {
				tl.say("replica %d is on node %d", r, nodeNumber(g.state.members[r]))
			}
		}
	})
}

// snapshot tells which snapshot a node holds, what is in it, and which files lie on its disk.
func (tl *teller) snapshot(n *stageNode) error {
	return tl.s.inStep(n, func(g *Group) {
		if g.snaps.held.Index == 0 {
			tl.say("none held")
		} else if st, err := n.host.snapshotState(g, g.snaps.held); err != nil {
			tl.say("held, of N = %d, and not readable: %v", g.snaps.held.Commits, err)
		} else {
			tl.say("of N = %d; %s", st.commits, spokenConf(st.conf))
			for _, ss := range st.sessions.sorted() {
				tl.say("  session of %s: last %d", tl.s.whose(ss.id), ss.last)
			}
		}
		names, err := n.fs.List(fmt.Sprintf("snapshots/%016x", g.local))
		if err != nil {
			tl.say("files: %v", err)
		}
		tl.say("%d files on the disk", len(names))
	})
}

// rest tells which replicas have fallen quiet.
func (tl *teller) rest() error {
	for _, n := range tl.s.nodes {
		if !n.up {
			continue
		}
		if err := tl.s.inStep(n, func(g *Group) { tl.say("node %d is quiet: %t", n.n, g.quietness.quiet) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) heldParcels() []*parcel {
	var out []*parcel
	for _, p := range s.flight {
		if s.isHeld(p) {
			out = append(out, p)
		}
	}
	return out
}

func (s *stage) isHeld(p *parcel) bool {
	return p.pinned || p.among(s.holds) || s.nodes[p.to-1].stops
}

func (s *stage) drop(p *parcel) {
	s.flight = slices.DeleteFunc(s.flight, func(o *parcel) bool { return o == p })
}

// among reports whether one of the links selects the message.
func (p *parcel) among(links []link) bool {
	return slices.ContainsFunc(links, func(l link) bool {
		return (l.from == 0 || l.from == p.from) && (l.to == 0 || l.to == p.to) && (l.kind == "" || p.raft != nil && l.kind == p.kind())
	})
}

func (p *parcel) kind() string {
	switch p.raft.GetType() {
	case raftpb.MsgProp:
		return "proposals"
	case raftpb.MsgApp, raftpb.MsgSnap:
		return "appends"
	case raftpb.MsgAppResp:
		return "answers"
	}
	return "rest"
}

// describe tells what a message is.
func (s *stage) describe(p *parcel) string {
	head := fmt.Sprintf("%d to %d:", p.from, p.to)
	if p.raft == nil {
		return head + " something else"
	}
	if p.raft.GetType() != raftpb.MsgProp {
		return head + " " + p.kind()
	}
	for _, e := range p.raft.GetEntries() {
		kind, _, err := entryKind(e.GetData())
		switch {
		case err != nil:
			head += " unreadable"
		case kind == KindBatch:
			b, err := decodeBatch(e.GetData())
			if err != nil {
				head += " unreadable"
				continue
			}
			head += " " + strings.TrimSuffix(s.batch(&b), ":") + fmt.Sprintf(", attempt %d", b.attempt)
		default:
			head += " " + spokenKind(kind)
		}
	}
	return head
}

func spokenKind(k Kind) string {
	return cmp.Or(map[Kind]string{
		KindSessionOpen: "an open", KindSessionClose: "a close", KindSessionExpire: "an expiry", KindBase: "a base",
		KindSnapshotRequest: "a request for a snapshot", KindSnapshotAnnounce: "an announcement", KindReplicaIntent: "an intent",
	}[k], fmt.Sprintf("kind %d", k))
}
