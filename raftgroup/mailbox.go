package raftgroup

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/id"
)

// event is what is posted to a group: a message, an answer of the log store, or a call.
type event struct {
	message  *raftpb.Message // from another replica, validated
	from     id.Node         // whose node it is on
	size     int             // of what came from another node; 0: it came from this one
	urgent   bool            // there is room for it that bulk does not get
	appended *appendResult
	call     func()
}

// patient reports whether an event may wait for others to share a step with, as
// far as the group bears it: see Group.bears. A message that is refused, an append
// that failed, and whatever else wants an answer may not.
func (e *event) patient() bool {
	switch {
	case e.appended != nil:
		return e.appended.err == nil
	case e.message != nil:
		return e.message.GetType() == raftpb.MsgAppResp && !e.message.GetReject()
	}
	return false
}

type appendResult struct{ err error }

// mailbox is the bounded queue in front of a group's step.
type mailbox struct {
	mu        sync.Mutex
	events    []event
	spare     []event
	bytes     int   // of what came from other nodes
	waiting   int32 // events that are patient
	bears     uint8 // as many of them do not need a step
	ticks     uint8
	scheduled bool
	due       bool // something waits for a step that does not bear delay
	busy      bool // the last step had work: one tick may wait for the next one
	well      bool // see Group.allWell
	skipped   bool // the last tick was left out
	closed    bool
}

// eventOverhead is what a message costs beside its bytes, roughly: most are small.
const eventOverhead = 256

// post queues an event and has the group scheduled. It reports false when the
// group is closed, or the event came from another node and the mailbox is full.
// Bulk does not fill it for what is urgent: a leader that loses acknowledgements
// and heartbeats over the proposals that others forward loses the lead.
func (g *Group) post(e event) bool {
	m := &g.mailbox
	limit := maxMailboxBytes
	if e.urgent {
		limit += maxMailboxBytes / 4
	}
	m.mu.Lock()
	if m.closed || (e.size > 0 && m.bytes > 0 && m.bytes+e.size > limit) {
		m.mu.Unlock()
		return false
	}
	m.bytes += e.size
	m.events = append(m.events, e)
	if e.patient() {
		m.waiting++
	} else {
		m.due = true
	}
	wake := !m.scheduled && m.wantsStep()
	m.scheduled = m.scheduled || wake
	m.mu.Unlock()
	if wake {
		g.host.enqueue(g)
	}
	return true
}

// wantsStep reports whether what lies in the mailbox does not bear delay.
func (m *mailbox) wantsStep() bool { return m.due || m.waiting > int32(m.bears) }

// call runs f in the group's step.
func (g *Group) call(f func()) bool { return g.post(event{call: f}) }

// heed is call for what another node said, in so many bytes.
func (g *Group) heed(size int, f func()) error {
	if !g.post(event{call: f, size: size + eventOverhead}) {
		return ErrBusy
	}
	return nil
}

// wake schedules a step without an event: a subscription's inbox has something.
func (g *Group) wake() {
	m := &g.mailbox
	m.mu.Lock()
	wake := !m.scheduled && !m.closed
	m.due = true // if it is being stepped, once more
	if wake {
		m.scheduled = true
	}
	m.mu.Unlock()
	if wake {
		g.host.enqueue(g)
	}
}

// tick lets a tick pass. In a group with work it waits for the next step that has
// to be made anyway, but no longer than until the next tick: with thousands of
// groups that do something now and then, every fifth step would be for a tick alone.
// And of two ticks of a group in which all is well, one is left out, where many groups
// are awake: its clock goes slower, which raft does not mind (see quietness).
func (g *Group) tick() {
	m := &g.mailbox
	m.mu.Lock()
	if m.well && !m.skipped {
		m.skipped = true
		m.mu.Unlock()
		return
	}
	m.skipped = false
	m.ticks = min(m.ticks+1, 2) // a node that was paused does not make up for lost time
	waits := m.busy && m.ticks == 1
	m.mu.Unlock()
	if !waits {
		g.wake()
	}
}
