package gossip

import (
	"github.com/copycat-replication/copycat/id"
	"github.com/hashicorp/memberlist"
)

const (
	senders = 3  // so that a peer that hangs does not hold up the others
	maxJobs = 64 // requests and answers that wait for a sender
)

// job is a request to send, or an answer to make and send.
type job struct {
	to     *memberlist.Node
	since  []version
	answer bool
}

// target is where to send to a member. It is a copy: memberlist's own Node may
// change under memberlist's lock at any time.
func (m *member) target(node id.Node) *memberlist.Node {
	return &memberlist.Node{Name: node.String(), Addr: m.address.Addr().AsSlice(), Port: m.address.Port()}
}

// enqueue reports false if the queue is full; what is lost is asked for again.
func (g *Gossip) enqueue(j job) bool {
	select {
	case g.jobs <- j:
		return true
	default:
		g.counters.dropped.Add(1)
		return false
	}
}

// send works off the jobs, until Close.
func (g *Gossip) send() {
	defer g.owned.Done()
	for {
		select {
		case <-g.ctx.Done():
			return
		case j := <-g.jobs:
			if j.answer {
				g.sendAnswer(j)
			} else {
				g.sendWant(j)
			}
		}
	}
}

func (g *Gossip) sendWant(j job) {
	b, err := encodeWant(sender{g.cluster(), g.config.Node}, j.since)
	if err != nil {
		g.log.Error("encoding a request", "error", err)
		return
	}
	if g.sendTo(j.to, b) {
		g.counters.wantsSent.Add(1)
	}
}

// sendAnswer makes the pages only now, so that nothing but the page that is
// being sent takes memory.
func (g *Gossip) sendAnswer(j job) {
	asker, err := id.ParseNode(j.to.Name)
	if err != nil {
		return
	}
	defer g.answered(asker)
	since := j.since
	for budget := maxAnswerBytes; ; {
		g.mu.RLock()
		updates, more := g.directory.pages(since, maxPageBytes, min(maxPageBytes, budget))
		g.mu.RUnlock()
		for i := range updates {
			budget -= updates[i].size()
		}
		last := !more || budget <= 0
		b, err := encodePage(page{sender{g.cluster(), g.config.Node}, updates, last})
		if err != nil {
			g.log.Error("encoding a page", "error", err)
			return
		}
		if !g.sendTo(j.to, b) {
			return
		}
		g.counters.pagesSent.Add(1)
		if last {
			return
		}
		since = advanceSince(since, updates)
	}
}

// advanceSince is what is left to send after updates.
func advanceSince(since []version, updates []update) []version {
	reached := make(map[id.Node]*update, len(updates))
	for i := range updates {
		reached[updates[i].node] = &updates[i]
	}
	next := make([]version, len(since))
	for i, v := range since {
		if u := reached[v.node]; u != nil {
			v.epoch, v.sequence = u.epoch, u.to
		}
		next[i] = v
	}
	return next
}

func (g *Gossip) sendTo(to *memberlist.Node, b []byte) bool {
	if err := g.list.SendReliable(to, b); err != nil {
		g.counters.sendFailures.Add(1)
		g.log.Debug("sending to a peer", "peer", to.Name, "bytes", len(b), "error", err)
		return false
	}
	g.counters.bytesSent.Add(uint64(len(b)))
	return true
}
