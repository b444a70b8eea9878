package history

import (
	"fmt"
	"sync"
)

// Journal is one subscriber of the workload: its state, and the log of what
// happened to it, in its own order. It is safe for concurrent use; the calls
// of one channel must come in the order of that channel.
type Journal struct {
	r   *Recorder
	sub Subscriber

	mu     sync.Mutex
	state  State
	seq    uint64
	open   map[ID]struct{} // own proposals neither delivered nor reported
	events []Event
	closed bool
}

// Subscriber returns whose journal it is.
func (j *Journal) Subscriber() Subscriber { return j.sub }

// recordLocked stamps the event and keeps or writes it.
func (j *Journal) recordLocked(e Event) {
	r := j.r
	r.mu.Lock()
	r.stampLocked(&e)
	if r.out != nil {
		r.out.write(&j.sub, &e)
	}
	r.mu.Unlock()
	if r.out == nil {
		j.events = append(j.events, e)
	}
}

// Pad makes every snapshot of this subscriber n bytes larger.
func (j *Journal) Pad(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.state.padding = n
}

// Base gives the subscriber n items that it holds before it subscribes. They
// are in the order if its provider's answer becomes the base.
func (j *Journal) Base(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range n {
		j.state.push(ID{j.sub.Writer() | baseMark, uint64(i + 1)})
	}
	j.recordLocked(Event{Kind: KindBased, Extra: &Extra{Fold: j.state.Fold()}})
}

// Propose makes the next payload and records it as proposed: to be called
// right before the send, and the sends to follow in the order of the calls. A
// send that is given up must be withdrawn.
func (j *Journal) Propose(op Op, key uint32, size int) (ID, []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seq++
	p := Payload{ID: ID{j.sub.Writer(), j.seq}, Op: op, Key: key, Size: size}
	j.open[p.ID] = struct{}{}
	j.recordLocked(Event{Kind: KindProposed, ID: p.ID, Op: op, Key: key})
	return p.ID, p.Encode()
}

// Withdraw records that a payload was not sent after all.
func (j *Journal) Withdraw(id ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.reportLocked(id, FateRefused, "not sent")
}

// Report records an error about a proposal, from the bytes that it carries. It
// returns ErrMalformed for bytes that are no payload, which it records too.
func (j *Journal) Report(payload []byte, fate Fate, text string) error {
	p, err := ParsePayload(payload)
	if err != nil {
		text = fmt.Sprintf("%s; %v", text, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.reportLocked(p.ID, fate, text)
	return err
}

func (j *Journal) reportLocked(id ID, fate Fate, text string) {
	delete(j.open, id)
	j.recordLocked(Event{Kind: KindReported, ID: id, Fate: fate, Extra: &Extra{Text: text}})
}

// Deliver records and applies one commit; n is its number if it is known, else
// 0. It returns ErrMalformed for bytes that are no payload, which it records
// as delivered but cannot apply. An own OpRead is answered from the state, and
// the answer recorded.
func (j *Journal) Deliver(payload []byte, n uint64) (Payload, error) {
	p, err := ParsePayload(payload)
	j.mu.Lock()
	defer j.mu.Unlock()
	e := Event{Kind: KindDelivered, ID: p.ID, N: n, Op: p.Op, Key: p.Key}
	if err != nil {
		e.Extra = &Extra{Text: err.Error()}
		j.state.push(ID{})
		j.recordLocked(e)
		return p, err
	}
	j.state.Apply(p)
	j.recordLocked(e)
	delete(j.open, p.ID)
	if p.Op == OpRead && p.ID.Writer == j.sub.Writer() {
		j.recordLocked(Event{Kind: KindRead, ID: p.ID, Key: p.Key, Extra: &Extra{Value: j.state.Get(p.Key)}})
	}
	return p, nil
}

// Load records and loads a snapshot. It returns ErrMalformed for bytes that
// are none, which it records too; the state is then what it was. The bytes
// stay the caller's.
func (j *Journal) Load(snapshot []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.state.Load(snapshot); err != nil {
		j.recordLocked(Event{Kind: KindLoaded, Extra: &Extra{Text: err.Error()}})
		return err
	}
	f := j.state.Fold()
	for _, id := range f.IDs {
		if len(j.open) == 0 {
			break
		}
		delete(j.open, id)
	}
	j.recordLocked(Event{Kind: KindLoaded, Extra: &Extra{Fold: f}})
	return nil
}

// Provide is a snapshot provider: it serializes the state, and records that.
func (j *Journal) Provide() ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b := j.state.Snapshot()
	j.recordLocked(Event{Kind: KindMade, Extra: &Extra{Fold: j.state.Fold()}})
	return b, nil
}

// Close records that the subscription ended. A second call does nothing.
func (j *Journal) Close(how Closing) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return
	}
	j.closed = true
	j.recordLocked(Event{Kind: KindClosed, Close: how})
}

// Len returns how many items the state holds, and their digest: for a rig that
// waits until all subscribers hold the same.
func (j *Journal) Len() (int, uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state.Len(), j.state.digest
}

// Open returns how many own proposals were neither delivered here nor reported.
func (j *Journal) Open() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.open)
}
