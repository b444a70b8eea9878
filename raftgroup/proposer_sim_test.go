package raftgroup

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// The heart of the promise "once or never, in order, and never a guess": a few
// proposers send into one log through a channel that loses, repeats and
// reorders; leaders change, sessions end, replicas jump over snapshots and
// processes restart. A cursor over the whole log is the judge.

// simLine is one proposal and what became of it.
type simLine struct {
	client  int
	seq     int // order in which the client sent it
	expires bool
	exposed bool // its bytes were proposed at least once
	settled []fate
	why     string // in what circumstances it was settled
}

// simClient is one subscription with the replica that it hangs on. It does
// with its proposer what a group's step does.
type simClient struct {
	w           *simWorld
	n           int
	node        id.Node
	incarnation uint64
	state       *state // apply cursor
	prop        proposer
	nonce       []byte
	askedAt     time.Time
	closing     map[uint64]time.Time
	sent        int // proposals
	why         string
}

type simWorld struct {
	t       *testing.T
	rng     *rand.Rand
	log     *memLog
	now     time.Time
	wire    [][]byte // proposals on their way
	clients []*simClient
	lines   map[string]*simLine
	nonces  int
	genesis *state
	faults  bool
	counts  map[string]int
}

func newSimWorld(t *testing.T, rng *rand.Rand) *simWorld {
	w := &simWorld{
		t: t, rng: rng, log: newMemLog(), now: time.Unix(1_000_000, 0), lines: make(map[string]*simLine), faults: true, counts: make(map[string]int),
		genesis: newState(id.Group{}, threeVoters(), Options{MaxSessions: 12}),
	}
	for i := range rng.IntN(3) + 2 {
		c := &simClient{w: w, n: i, node: nodeN(i + 1), incarnation: 1, state: cutState(t, w.genesis), closing: make(map[uint64]time.Time), why: "log"}
		w.clients = append(w.clients, c)
	}
	return w
}

// send puts a proposal on the wire, where it may be lost.
func (w *simWorld) send(data []byte) {
	if w.faults && w.rng.IntN(6) == 0 {
		return
	}
	w.wire = append(w.wire, data)
}

// commit appends one proposal of those on the wire to the log: in order when
// there are no faults, any and perhaps again otherwise.
func (w *simWorld) commit() {
	if len(w.wire) == 0 {
		return
	}
	i := 0
	if w.faults && w.rng.IntN(3) == 0 {
		i = w.rng.IntN(len(w.wire))
	}
	data := bytes.Clone(w.wire[i])
	if !w.faults || w.rng.IntN(10) > 0 {
		w.wire = slices.Delete(w.wire, i, i+1)
	}
	stampClock(data, w.now.UnixNano())
	w.log.add(data)
}

func (w *simWorld) record(kind Kind, m protoMessage) []byte { return record(w.t, kind, m) }

// settle hears of a fate, as a subscription does.
func (c *simClient) settle(s settlement) {
	line := c.w.lines[string(s.payload)]
	if line == nil {
		c.w.t.Fatalf("settled %q, which nobody sent", s.payload)
	}
	line.settled = append(line.settled, s.fate)
	line.why = c.why
	c.w.counts[fmt.Sprintf("fate %d", s.fate)]++
}

func (c *simClient) add() {
	c.sent++
	payload := fmt.Sprintf("client %d line %d", c.n, c.sent)
	line := &simLine{client: c.n, seq: c.sent}
	var deadline time.Time
	if c.w.rng.IntN(4) == 0 {
		deadline, line.expires = c.w.now.Add(time.Duration(c.w.rng.IntN(8000))*time.Millisecond), true
	}
	c.w.lines[payload] = line
	c.prop.add([]byte(payload), deadline)
}

func (c *simClient) open() {
	w := c.w
	if c.prop.session != 0 || w.now.Sub(c.askedAt) < openRetry {
		return
	}
	if c.nonce == nil {
		w.nonces++
		c.nonce = make([]byte, 16)
		c.nonce[0], c.nonce[1] = byte(w.nonces), byte(w.nonces>>8)
	}
	c.askedAt = w.now
	w.send(w.record(KindSessionOpen, &grouppb.SessionOpen{Nonce: c.nonce, Node: c.node[:], Incarnation: c.incarnation}))
}

// pump proposes what waits.
func (c *simClient) pump() {
	for c.prop.unsent() > 0 {
		data, n := c.prop.next(nil, 60)
		if n == 0 || (c.w.faults && c.w.rng.IntN(8) == 0) { // no session, or raft refuses it
			return
		}
		for _, p := range c.prop.window[c.prop.sent : c.prop.sent+n] {
			if !p.void {
				c.w.lines[string(p.payload)].exposed = true
			}
		}
		c.w.send(data)
		c.prop.accepted(n, c.w.now)
	}
}

func (c *simClient) tick() {
	c.prop.tick(c.w.now)
	c.open()
	for _, s := range slices.Sorted(maps.Keys(c.closing)) { // not in map order: a seed must replay
		tried := c.closing[s]
		if _, live, _ := c.state.sessions.last(s); !live {
			delete(c.closing, s)
		} else if c.w.now.Sub(tried) >= openRetry {
			c.closing[s] = c.w.now
			c.w.send(c.w.record(KindSessionClose, &grouppb.SessionClose{Session: s}))
		}
	}
}

func (c *simClient) apply(n int) {
	for ; n > 0 && c.state.index < c.w.log.last(); n-- {
		o := mustApply(c.w.t, c.state, c.w.log.at(c.state.index+1))
		c.react(&o)
		c.check()
	}
}

func (c *simClient) react(o *outcome) {
	switch o.kind {
	case KindBatch:
		if o.session != c.prop.session || c.prop.session == 0 {
			return
		}
		switch o.verdict {
		case verdictCounts:
			c.prop.counted(&o.batch, o.from, c.w.now, c.settle)
		case verdictGap:
			if c.prop.dropped(o.batch.attempt) {
				c.w.counts["rewinds by a gap"]++
			}
		case verdictUnknown:
			c.w.t.Fatal("own batch in a session that is live here and not in the table")
		}
	case KindSessionOpen:
		for _, s := range o.ended {
			c.ended(s)
		}
		switch {
		case o.node != c.node || o.repeated:
		case c.nonce != nil && bytes.Equal(o.nonce[:], c.nonce):
			c.nonce = nil
			if o.ok {
				c.prop.opened(o.session, c.w.now)
				c.w.counts["opened"]++
			}
		case o.ok:
			c.closing[o.session] = time.Time{}
		}
	case KindSessionClose, KindSessionExpire:
		if o.ok {
			c.ended(o.session)
		}
	}
}

func (c *simClient) ended(session uint64) {
	if session != c.prop.session || session == 0 {
		return
	}
	last, _, known := c.state.sessions.last(session)
	why := c.why
	if !known {
		c.why = "record gone"
		c.w.counts["ended without a record"]++
	}
	c.prop.ended(last, known, c.w.now, c.settle)
	c.why = why
	c.askedAt = time.Time{}
	c.w.counts["ended"]++
}

// jump installs a snapshot: the entries in between are never seen.
func (c *simClient) jump(to uint64) {
	to = min(to, c.w.log.last())
	if c.state.index >= to {
		return
	}
	s := cutState(c.w.t, c.state)
	for s.index < to {
		mustApply(c.w.t, s, c.w.log.at(s.index+1))
	}
	c.state = cutState(c.w.t, s)
	c.why = "jump"
	if session := c.prop.session; session != 0 {
		if last, live, _ := c.state.sessions.last(session); live {
			c.prop.reconcile(last, c.w.now, c.settle)
		} else {
			c.ended(session)
		}
	}
	c.why = "log"
	for _, s := range c.state.sessions.sorted() {
		if s.node == c.node && s.id != c.prop.session {
			c.react(&outcome{kind: KindSessionOpen, session: s.id, nonce: s.nonce, node: s.node, ok: true})
		}
	}
	c.w.counts["jumps"]++
	c.check()
}

// restart ends the process: what is open is abandoned, a new one begins.
func (c *simClient) restart() {
	c.why = "shutdown"
	c.prop.abandon(c.settle)
	c.why = "log"
	c.prop, c.nonce, c.askedAt = proposer{}, nil, time.Time{}
	c.closing = make(map[uint64]time.Time)
	c.incarnation++
	c.w.counts["restarts"]++
}

// check looks at what the proposer promises about itself.
func (c *simClient) check() {
	p := &c.prop
	if p.sent < 0 || p.sent > p.everSent || p.everSent > len(p.window) {
		c.w.t.Fatalf("sent %d, ever sent %d, window %d", p.sent, p.everSent, len(p.window))
	}
	if p.session != 0 {
		if last, live, _ := c.state.sessions.last(p.session); !live || last != p.settled {
			c.w.t.Fatalf("settled up to %d, the table says %d (live %v)", p.settled, last, live)
		}
	}
	for i, w := range p.window {
		if w.exposed && i >= p.everSent {
			c.w.t.Fatalf("number %d is out, and counted as never sent", p.settled+uint64(i)+1)
		}
		if !w.exposed && !w.void && i < p.everSent {
			c.w.t.Fatalf("number %d was sent without a trace", p.settled+uint64(i)+1)
		}
	}
}

// flood pushes the tombstones of earlier sessions out of the table.
func (w *simWorld) flood() {
	w.counts["floods"]++
	stranger := nodeN(99)
	for i := range maxTombstones + 2 {
		w.log.add(w.record(KindSessionOpen, &grouppb.SessionOpen{Nonce: []byte(fmt.Sprintf("%16d", i)), Node: stranger[:], Incarnation: uint64(i)}))
	}
}

func (w *simWorld) fault() {
	r := w.rng
	c := w.clients[r.IntN(len(w.clients))]
	switch k := r.IntN(1000); {
	case k < 250:
		for range r.IntN(4) + 1 {
			c.add()
		}
	case k < 450:
		c.pump()
	case k < 650:
		for range r.IntN(5) {
			w.commit()
		}
	case k < 850:
		c.apply(r.IntN(8))
	case k < 920:
		w.now = w.now.Add(time.Duration(r.IntN(1500)) * time.Millisecond)
		for _, c := range w.clients {
			c.tick()
		}
	case k < 945: // the leader changes, and takes some of what was on its way with it
		w.log.term++
		w.wire = slices.DeleteFunc(w.wire, func([]byte) bool { return r.IntN(2) == 0 })
		for _, c := range w.clients {
			if r.IntN(3) > 0 {
				c.prop.rewind()
			}
		}
	case k < 965:
		if s := c.prop.session; s != 0 {
			last, _, _ := w.clients[r.IntN(len(w.clients))].state.sessions.last(s)
			w.send(w.record(KindSessionExpire, &grouppb.SessionExpire{Session: s, Last: last}))
		}
	case k < 970:
		if s := c.prop.session; s != 0 {
			w.send(w.record(KindSessionClose, &grouppb.SessionClose{Session: s}))
		}
	case k < 990:
		c.jump(c.state.index + 1 + r.Uint64N(w.log.last()-c.state.index+1))
	case k < 992:
		c.restart()
	case k < 993:
		if r.IntN(8) == 0 {
			if s := c.prop.session; s != 0 { // an end whose tombstone the flood washes away
				w.log.add(w.record(KindSessionClose, &grouppb.SessionClose{Session: s}))
			}
			w.flood()
			c.jump(w.log.last())
		}
	}
}

// calm lets the faults stop: everything must settle within a bounded time.
func (w *simWorld) calm() {
	w.faults = false
	const bound = 60
	for round := range bound {
		w.now = w.now.Add(time.Second)
		for _, c := range w.clients {
			c.tick()
			c.pump()
		}
		for len(w.wire) > 0 {
			w.commit()
		}
		for _, c := range w.clients {
			c.apply(1 << 30)
		}
		open := 0
		for _, c := range w.clients {
			open += len(c.prop.window)
		}
		if open == 0 && len(w.wire) == 0 {
			w.counts["rounds to calm"] = max(w.counts["rounds to calm"], round)
			return
		}
	}
	w.t.Fatalf("not all settled after %d rounds", bound)
}

// judge runs a cursor over the whole log and compares.
func (w *simWorld) judge() {
	c := &cursor{state: cutState(w.t, w.genesis)}
	delivered := make(map[string]bool)
	last := make(map[int]int)
	n := uint64(0)
	for {
		d, ok, err := c.next(reader{log: w.log}, w.log.last())
		if err != nil {
			w.t.Fatal(err)
		}
		if !ok {
			break
		}
		for i, p := range d.payloads {
			n++
			if d.first+uint64(i) != n {
				w.t.Fatalf("commit %d is numbered %d", n, d.first+uint64(i))
			}
			line := w.lines[string(p)]
			switch {
			case line == nil:
				w.t.Fatalf("delivered %q, which nobody sent", p)
			case delivered[string(p)]:
				w.t.Fatalf("%q was delivered twice", p)
			case line.seq <= last[line.client]:
				w.t.Fatalf("%q was delivered after line %d", p, last[line.client])
			}
			delivered[string(p)], last[line.client] = true, line.seq
		}
	}
	for p, line := range w.lines {
		if len(line.settled) != 1 {
			w.t.Fatalf("%q was settled %d times: %v", p, len(line.settled), line.settled)
		}
		switch f := line.settled[0]; {
		case f == fateCommitted && !delivered[p]:
			w.t.Fatalf("%q was reported committed (%s), and never delivered", p, line.why)
		case (f == fateVoided || f == fateNever) && delivered[p]:
			w.t.Fatalf("%q was reported never committed (fate %d, %s), and delivered", p, f, line.why)
		case f == fateUnknown && !line.exposed:
			w.t.Fatalf("%q was reported unknown (%s), and its bytes were never proposed", p, line.why)
		case f == fateUnknown && line.why == "log":
			w.t.Fatalf("%q was reported unknown although the log was there", p)
		case f == fateUnknown && line.why == "jump" && !line.expires:
			w.t.Fatalf("%q was reported unknown after a jump, and could not have been void", p)
		case f == fateVoided && !line.expires:
			w.t.Fatalf("%q was voided without a deadline", p)
		}
	}
	w.counts["delivered"] += len(delivered)
}

func TestProposersSettleWhatTheLogSays(t *testing.T) {
	t.Parallel()
	total := make(map[string]int)
	seeds(t, 400, func(t *testing.T, rng *rand.Rand) {
		w := newSimWorld(t, rng)
		for range 600 {
			w.fault()
		}
		w.calm()
		w.judge()
		for k, v := range w.counts {
			if k == "rounds to calm" {
				total[k] = max(total[k], v)
			} else {
				total[k] += v
			}
		}
	})
	t.Log(total)
	for f := fateCommitted; f <= fateUnknown; f++ {
		if total[fmt.Sprintf("fate %d", f)] == 0 {
			t.Errorf("no proposal ended with fate %d: the faults are too tame", f)
		}
	}
	for _, what := range []string{"jumps", "restarts", "ended", "ended without a record", "rewinds by a gap", "floods"} {
		if total[what] == 0 {
			t.Errorf("no %s: the faults are too tame", what)
		}
	}
}
