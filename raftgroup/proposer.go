package raftgroup

import (
	"time"
)

// proposer is the sending end of a session: it numbers what the subscription
// proposes, packs what waits into batches, and goes back to the first
// unsettled number when something was lost on the way (design, section 5). It
// has no clock, no lock and no goroutine: the group's step owns it.
//
// Invariants: window[i] has the number settled+1+i; window[:sent] were
// proposed in the present attempt; a number's bytes never change, except that
// the whole number may turn void.
type proposer struct {
	session  uint64 // 0: no session yet
	settled  uint64 // last number whose fate the log has decided
	window   []pending
	store    []pending // whose end the window is, so that its beginning is used again
	sent     int
	everSent int    // window[:everSent] were proposed in some attempt
	attempt  uint32 // counts rewinds

	progress time.Time     // when the settled number last moved, or the window was last sent from its start
	patience time.Duration // doubles with each time-out without progress
	due      time.Time     // no deadline in the window is before this; zero: there is none
	scratch  []item        // reused by next
	voidDue  bool          // something turned void that this attempt sent with its payload
}

// pending is one proposal whose fate is not known yet.
type pending struct {
	payload  []byte
	deadline time.Time // zero: none
	void     bool      // given up: proposed as void from now on
	exposed  bool      // was proposed with its payload at least once
}

// settlement is the fate of one proposal.
type settlement struct {
	payload []byte
	fate    fate
}

type fate uint8

const (
	fateCommitted fate = iota + 1
	fateVoided         // the deadline passed, and the void copy came first: never committed
	fateNever          // the session ended before it counted: never committed
	fateUnknown        // the record of it is gone
)

// unrecorded is the fate of a number that was proposed, where nothing is left
// to tell what became of it: if its bytes never left, they cannot have counted.
func (w *pending) unrecorded() fate {
	if w.exposed {
		return fateUnknown
	}
	return fateVoided
}

// size is what a proposal takes of a batch.
func (w *pending) size() int {
	if w.void {
		return 0
	}
	return len(w.payload)
}

const minPatience = 2 * time.Second

func (p *proposer) add(payload []byte, deadline time.Time) {
	if len(p.window) == cap(p.window) {
		p.makeRoom()
	}
	p.window = append(p.window, pending{payload: payload, deadline: deadline})
	p.expireBy(deadline)
}

// makeRoom moves the window to the beginning of its store, or to a larger one.
// Each proposal is moved about once, since half of the store is free afterwards.
func (p *proposer) makeRoom() {
	n := len(p.window)
	if 2*n > cap(p.store) || p.store == nil {
		p.store = make([]pending, max(2*n, 16))
		copy(p.store, p.window)
	} else {
		copy(p.store, p.window)
		clear(p.window) // that is the end of the store, which no proposal shall be pinned by
	}
	p.window = p.store[:n]
}

// keepWindow is the room that a window without proposals keeps.
const keepWindow = 64

// unsent tells how many proposals wait to be sent in this attempt.
func (p *proposer) unsent() int { return len(p.window) - p.sent }

// fills reports whether a full batch waits.
func (p *proposer) fills(maxBytes int) bool {
	if p.unsent() >= maxBatchCount {
		return true
	}
	size := 0
	for i := p.sent; i < len(p.window) && size < maxBytes; i++ {
		size += p.window[i].size()
	}
	return size >= maxBytes
}

// next packs the next batch of at most maxBytes of payload (one proposal at
// least) into buf, which grows as needed, or returns nil if all is sent or there
// is no session.
func (p *proposer) next(buf []byte, maxBytes int) (data []byte, n int) {
	if p.session == 0 || p.sent == len(p.window) {
		return nil, 0
	}
	items, size := p.scratch[:0], 0
	for i := p.sent; i < len(p.window) && len(items) < maxBatchCount; i++ {
		w := &p.window[i]
		if len(items) > 0 && size+w.size() > maxBytes {
			break
		}
		items = append(items, item{payload: w.payload, void: w.void})
		size += w.size()
	}
	data, n = encodeBatch(buf, p.session, p.settled+uint64(p.sent)+1, p.attempt, items), len(items)
	clear(items) // pins no payloads
	p.scratch = items
	return data, n
}

// accepted notes that the batch of n which next returned is on its way.
func (p *proposer) accepted(n int, now time.Time) {
	for i := p.sent; i < p.sent+n; i++ {
		p.window[i].exposed = p.window[i].exposed || !p.window[i].void
	}
	if p.sent == 0 {
		p.progress = now
	}
	p.sent += n
	p.everSent = max(p.everSent, p.sent)
}

// counted settles the numbers from..first+count-1 of an own batch that counted.
func (p *proposer) counted(b *batch, from uint64, now time.Time, settle func(settlement)) {
	if from > p.settled+1 {
		// Numbers that counted in entries which this proposer did not see.
		p.reconcile(from-1, now, settle)
	}
	// Behind the place of an earlier replica, entries come again whose numbers
	// are settled.
	for i := uint64(max(from, p.settled+1)) - b.first; i < uint64(b.count); i++ {
		f := fateCommitted
		if b.void(uint32(i)) {
			f = fateVoided
		}
		p.pop(f, settle)
	}
	p.progress, p.patience = now, minPatience
}

// pop settles the first number of the window.
func (p *proposer) pop(f fate, settle func(settlement)) {
	p.settled++
	if len(p.window) == 0 {
		p.everSent = 0
		return // only a log that disagrees with this proposer gets here
	}
	w := p.window[0]
	p.window[0] = pending{}
	p.window = p.window[1:]
	p.sent, p.everSent = max(p.sent-1, 0), max(p.everSent-1, 0)
	if settle != nil {
		settle(settlement{payload: w.payload, fate: f})
	}
}

// dropped reacts to an own batch that was a gap: one attempt, one rewind.
func (p *proposer) dropped(attempt uint32) bool {
	if attempt != p.attempt {
		return false
	}
	return p.rewind()
}

// rewind goes back to the first unsettled number.
func (p *proposer) rewind() bool {
	p.voidDue = false
	if p.sent == 0 {
		return false
	}
	p.sent = 0
	p.attempt++
	return true
}

// tick rewinds after a time without progress, and voids what is past its
// deadline. While there is progress, a void does not rewind: the copy that is
// on its way decides, or leaves a gap, or never comes, and each of these goes
// back soon enough. On a link that is slower than the deadlines, sending the
// window again for each that expires would leave room for nothing else.
func (p *proposer) tick(now time.Time) {
	if !p.due.IsZero() && !now.Before(p.due) {
		p.voidExpired(now)
	}
	if len(p.window) == 0 && cap(p.store) > keepWindow {
		p.window, p.store = nil, nil
	}
	if p.sent == 0 {
		return
	}
	idle := now.Sub(p.progress)
	if idle >= max(p.patience, minPatience) {
		p.patience = min(2*max(p.patience, minPatience), 16*minPatience)
		p.rewind()
	} else if p.voidDue && idle >= minPatience {
		p.rewind()
	}
}

// expireUnsent settles what is past its deadline and has never left: no number
// was given to it outside this window, so it needs no void. Without a session,
// nothing else would ever settle it.
func (p *proposer) expireUnsent(now time.Time, settle func(settlement)) {
	if p.due.IsZero() || now.Before(p.due) {
		return
	}
	kept := p.window[:p.everSent]
	for _, w := range p.window[p.everSent:] {
		if w.deadline.IsZero() || now.Before(w.deadline) {
			kept = append(kept, w)
			continue
		}
		settle(settlement{payload: w.payload, fate: fateVoided})
	}
	clear(p.window[len(kept):])
	p.window = kept
}

// voidExpired gives up what is past its deadline.
func (p *proposer) voidExpired(now time.Time) {
	p.due = time.Time{}
	for i := range p.window {
		w := &p.window[i]
		switch {
		case w.void || w.deadline.IsZero():
		case now.Before(w.deadline):
			p.expireBy(w.deadline)
		default:
			w.void = true
			p.voidDue = p.voidDue || i < p.sent
		}
	}
}

// expireBy notes that a proposal in the window has this deadline.
func (p *proposer) expireBy(deadline time.Time) {
	if !deadline.IsZero() && (p.due.IsZero() || deadline.Before(p.due)) {
		p.due = deadline
	}
}

// opened starts a new session. What was never sent goes on under it.
func (p *proposer) opened(session uint64, now time.Time) {
	p.session, p.settled, p.sent, p.everSent, p.attempt = session, 0, 0, 0, 0
	p.progress, p.patience = now, minPatience
}

// reconcile settles by what the session table says after the apply cursor
// jumped to a snapshot: the entries in between were not seen.
func (p *proposer) reconcile(last uint64, now time.Time, settle func(settlement)) {
	for p.settled < last && len(p.window) > 0 {
		f := fateCommitted
		if w := &p.window[0]; w.void {
			// If it was sent with its payload, then void: which of the two came
			// first stood in the entries that the snapshot swallowed.
			f = w.unrecorded()
		}
		p.pop(f, settle)
	}
	if last > p.settled {
		p.settled = last
	}
	p.progress, p.patience = now, minPatience
	p.rewind()
}

// ended settles what was sent under a session that is over. known tells
// whether last is still on record.
func (p *proposer) ended(last uint64, known bool, now time.Time, settle func(settlement)) {
	if known {
		p.reconcile(last, now, settle)
	}
	for p.everSent > 0 { // pop counts it down
		f := fateNever
		if !known {
			f = p.window[0].unrecorded()
		}
		p.pop(f, settle)
	}
	p.session, p.sent, p.everSent = 0, 0, 0
}

// abandon settles everything, because nobody waits any longer.
func (p *proposer) abandon(settle func(settlement)) {
	for len(p.window) > 0 {
		f := fateNever
		if p.everSent > 0 {
			f = p.window[0].unrecorded()
		}
		p.pop(f, settle)
	}
}
