package raftgroup_test

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// faultyNet is a node's network with a hook in front of its fetches and behind
// its calls.
type faultyNet struct {
	raftgroup.Network
	fetch  atomic.Pointer[fetchHook]
	answer func(method uint16, data []byte) ([]byte, error) // set before the node starts
}

type fetchHook func(ctx context.Context, to id.Node, req grouppb.FetchRequest) (io.ReadCloser, error)

// onFetch puts a hook in front of fetches.
func (n *faultyNet) onFetch(f fetchHook) { n.fetch.Store(&f) }

func (n *faultyNet) Fetch(ctx context.Context, to id.Node, request []byte) (io.ReadCloser, error) {
	hook := n.fetch.Load()
	if hook == nil {
		return n.Network.Fetch(ctx, to, request)
	}
	var req grouppb.FetchRequest
	if err := req.Unmarshal(request); err != nil {
		return nil, err
	}
	return (*hook)(ctx, to, req)
}

// open is the fetch behind the hook.
func (n *faultyNet) open(ctx context.Context, t testing.TB, to id.Node, req grouppb.FetchRequest) (io.ReadCloser, error) {
	t.Helper()
	body, err := req.Marshal()
	if err != nil {
		return nil, err
	}
	return n.Network.Fetch(ctx, to, body)
}

func (n *faultyNet) Call(ctx context.Context, to id.Node, method uint16, request []byte) ([]byte, error) {
	data, err := n.Network.Call(ctx, to, method, request)
	if err == nil && n.answer != nil {
		return n.answer(method, data)
	}
	return data, err
}

// stream is what a test gives for a snapshot's file.
type stream struct {
	io.Reader
	io.Closer
}

// faultyLog is a node's log store that holds writes back, or refuses them.
type faultyLog struct {
	*wal.Log
	groups   func([]wal.GroupState) []wal.GroupState
	suspects []wal.Suspect

	mu      sync.Mutex
	holding func(wal.Update) bool // from the first one on for which it is true, all wait
	held    []func()
	failure error                  // of all writes
	refusal func(wal.Update) error // of some; nil: of none
	silent  func(wal.Update) bool  // writes whose answers wait
	unsaid  []func()
}

func (l *faultyLog) Groups() []wal.GroupState {
	if l.groups == nil {
		return l.Log.Groups()
	}
	return l.groups(l.Log.Groups())
}

func (l *faultyLog) Suspects() []wal.Suspect { return append(l.Log.Suspects(), l.suspects...) }

func (l *faultyLog) Health() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure != nil {
		return l.failure
	}
	return l.Log.Health()
}

func (l *faultyLog) Submit(updates []wal.Update, done func(error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.failure != nil:
		failure := l.failure
		go done(failure)
	case l.refusal != nil && l.refusal(updates[0]) != nil:
		go done(l.refusal(updates[0]))
	case l.holding != nil && (len(l.held) > 0 || l.holding(updates[0])):
		l.held = append(l.held, func() { l.Log.Submit(updates, done) })
	case l.silent != nil && (len(l.unsaid) > 0 || l.silent(updates[0])):
		l.unsaid = append(l.unsaid, nil)
		at := len(l.unsaid) - 1
		l.Log.Submit(updates, func(err error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if at >= len(l.unsaid) { // answered since
				done(err)
				return
			}
			l.unsaid[at] = func() { done(err) }
		})
	default:
		l.Log.Submit(updates, done)
	}
}

// hold has writes wait from the first one on for which which is true.
func (l *faultyLog) hold(which func(wal.Update) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holding = which
}

func (l *faultyLog) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held)
}

// release lets all writes go on, in order.
func (l *faultyLog) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.held {
		f()
	}
	l.held, l.holding = nil, nil
}

// refuse has all writes fail; nil: no more.
func (l *faultyLog) refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = err
}

// refuseSome has those writes fail of which refusal says so; nil: none.
func (l *faultyLog) refuseSome(refusal func(wal.Update) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusal = refusal
}

// silence has writes be durable and visible, and their answers wait, from the
// first one on for which which is true.
func (l *faultyLog) silence(which func(wal.Update) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent = which
}

// unanswered tells how many writes are durable and not answered.
func (l *faultyLog) unanswered() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.unsaid {
		if f != nil {
			n++
		}
	}
	return n
}

// speak gives all answers, in order.
func (l *faultyLog) speak() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.unsaid {
		if f != nil {
			f()
		}
	}
	l.unsaid, l.silent = nil, nil
}
