package history

import (
	"fmt"
	"strings"
	"time"
)

// Kind says what happened.
type Kind uint8

// The kinds of events. The first group stands in a subscriber's log, in the
// subscriber's own order; the second in the history's list of node events.
const (
	KindNone      Kind = iota
	KindOpened         // the subscription was opened
	KindBased          // it held something before its first commit: Fold
	KindProposed       // recorded before the send: ID, Op, Key
	KindDelivered      // ID, N if it is known; bytes that are no payload: the zero ID, and Text
	KindLoaded         // Fold; bytes that are no snapshot: no Fold, and Text
	KindMade           // its provider made a snapshot: Fold
	KindReported       // an error about a proposal: ID, Fate, Text
	KindRead           // the own OpRead proposal ID was delivered, and Value read under Key
	KindClosed         // Closing

	KindCrash      // Node, Process
	KindStart      // Node, Process
	KindWipe       // Node, Process: its data directory is gone
	KindFaultStart // Text
	KindFaultStop  // Text
	KindStored     // a node's stored snapshot: Structure, Node, N, Fold (or Text)
	KindCalm       // the faults are over
	KindEnd        // the rig has waited for convergence, and stops
)

var kindNames = [...]string{
	"none", "opened", "based", "proposed", "delivered", "loaded", "made", "reported", "read", "closed",
	"crash", "start", "wipe", "fault start", "fault stop", "stored", "calm", "end",
}

// String names the kind.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ofSubscriber: the kinds that stand in a subscriber's log.
func (k Kind) ofSubscriber() bool { return k >= KindOpened && k <= KindClosed }

// hasExtra: the kinds of events that always have an Extra.
func (k Kind) hasExtra() bool {
	switch k {
	case KindBased, KindLoaded, KindMade, KindReported, KindRead, KindCrash, KindStart, KindWipe, KindFaultStart, KindFaultStop, KindStored:
		return true
	}
	return false
}

// Fate is what an error says about a proposal.
type Fate uint8

// The fates.
const (
	FateNone    Fate = iota
	FateNever        // it was not committed and will not be
	FateExpired      // its deadline passed; it was not committed and will not be
	FateUnknown      // it may have been committed, or may yet be
	FateRefused      // it was not taken: too large, or the send was given up
)

var fateNames = [...]string{"none", "never", "expired", "unknown", "refused"}

// String names the fate.
func (f Fate) String() string {
	if int(f) < len(fateNames) {
		return fateNames[f]
	}
	return fmt.Sprintf("fate(%d)", uint8(f))
}

// final: the fates that promise that the proposal is never delivered.
func (f Fate) final() bool { return f == FateNever || f == FateExpired || f == FateRefused }

// Closing is how a subscription ended.
type Closing uint8

// The ways to end.
const (
	ClosingNone Closing = iota
	// Unsubscribed: the propose channel was closed, and both other channels
	// were read until they closed. What was sent was delivered to this
	// subscriber or reported.
	Unsubscribed
	// ShutDown: the node was shut down, and both channels were read until they
	// closed. What was sent is in the order, or was reported.
	ShutDown
	// Abandoned: nothing is claimed.
	Abandoned
	// CutShort: like Unsubscribed, but the subscription said at its end that not
	// all of its own changes were delivered to it, though they are committed. What
	// was sent is in the order, or was reported.
	CutShort
)

var closingNames = [...]string{"none", "unsubscribed", "shut down", "abandoned", "cut short"}

// String names the way to end.
func (c Closing) String() string {
	if int(c) < len(closingNames) {
		return closingNames[c]
	}
	return fmt.Sprintf("closing(%d)", uint8(c))
}

// Event is one thing that happened. Which fields count depends on the Kind.
type Event struct {
	At    int64  // nanoseconds: virtual, or Unix time
	Seq   uint64 // order of recording within one recorder
	ID    ID
	N     uint64 // 0: not known
	Key   uint32
	Kind  Kind
	Op    Op
	Fate  Fate
	Close Closing
	*Extra
}

// Extra holds what only few events have.
type Extra struct {
	Fold      *Fold
	Value     ID
	Structure uint16
	Node      uint16
	Process   uint32
	Text      string
}

func (e *Event) fold() *Fold {
	if e.Extra == nil {
		return nil
	}
	return e.Extra.Fold
}

func (e *Event) text() string {
	if e.Extra == nil {
		return ""
	}
	return e.Extra.Text
}

// describe prints the event with the time that has passed since origin.
func (e *Event) describe(origin int64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s", time.Duration(e.At-origin), e.Kind)
	switch e.Kind {
	case KindProposed:
		fmt.Fprintf(&b, " %s", e.ID)
		if e.Op != OpNone {
			fmt.Fprintf(&b, " %s %d", e.Op, e.Key)
		}
	case KindDelivered:
		fmt.Fprintf(&b, " %s", e.ID)
	case KindReported:
		fmt.Fprintf(&b, " %s %s", e.Fate, e.ID)
	case KindRead:
		fmt.Fprintf(&b, " %s: key %d is %s", e.ID, e.Key, e.Extra.Value)
	case KindClosed:
		fmt.Fprintf(&b, " %s", e.Close)
	case KindCrash, KindStart, KindWipe:
		fmt.Fprintf(&b, " n%d.%d", e.Extra.Node, e.Extra.Process)
	case KindStored:
		fmt.Fprintf(&b, " s%d on n%d", e.Extra.Structure, e.Extra.Node)
	}
	if e.N != 0 {
		fmt.Fprintf(&b, " N=%d", e.N)
	}
	if f := e.fold(); f != nil {
		fmt.Fprintf(&b, " %d items, digest %016x", len(f.IDs), f.Digest)
		if k := len(f.IDs); k > 0 {
			fmt.Fprintf(&b, ", last %s", f.IDs[k-1])
		}
	}
	if t := e.text(); t != "" {
		fmt.Fprintf(&b, " (%s)", t)
	}
	return b.String()
}
