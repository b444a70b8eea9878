package raftgroup

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/pb/grouppb"
)

// drain runs a cursor up to a limit and describes what it hands out.
func drain(t testing.TB, c *cursor, r entryReader, limit uint64) (out []string) {
	t.Helper()
	for {
		at := c.state.index + 1
		d, ok, err := c.next(r, limit)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return out
		}
		switch d.kind {
		case deliverPayloads:
			for i, p := range d.payloads {
				out = append(out, fmt.Sprintf("%d: commit %d %q", at, d.first+uint64(i), p))
			}
		case deliverBase:
			out = append(out, fmt.Sprintf("%d: base %q", at, d.base))
		case deliverMake:
			out = append(out, fmt.Sprintf("%d: make %d", at, d.request.commits))
		}
	}
}

// Cursors that start at different places deliver the same from there on, and
// end in the same state, however they read.
func TestCursorsAgreeFromAnyStart(t *testing.T) {
	t.Parallel()
	seeds(t, 40, func(t *testing.T, rng *rand.Rand) {
		log := makeLog(t, rng, 150)
		whole := &cursor{state: newTestState()}
		s := newTestState()
		want := drain(t, whole, reader{log: log}, log.last())
		for _, e := range log.entries {
			mustApply(t, s, e)
			if rng.IntN(6) > 0 {
				continue
			}
			c := &cursor{state: cutState(t, s)}
			var got []string
			for c.state.index < log.last() { // in steps, with a reader of its own mind
				limit := min(log.last(), c.state.index+1+rng.Uint64N(30))
				got = append(got, drain(t, c, reader{log: log, max: uint64(rng.IntN(300) + 1)}, limit)...)
			}
			suffix := want[len(want)-len(got):]
			if len(got) > 0 && !reflect.DeepEqual(got, suffix) {
				t.Fatalf("from %d:\n%v\nwant\n%v", s.index, got, suffix)
			}
			for _, line := range want[:len(want)-len(got)] { // and it left nothing out
				var at uint64
				if _, err := fmt.Sscanf(line, "%d:", &at); err != nil || at > s.index {
					t.Fatalf("from %d: %s is missing (%v)", s.index, line, err)
				}
			}
			if encoded(t, c.state) != encoded(t, whole.state) {
				t.Fatalf("from %d: another state at the end", s.index)
			}
		}
	})
}

// Commits are numbered without a hole, voids and duplicates left out, and a
// payload of no bytes is delivered empty, not nil.
func TestCursorNumbersCommits(t *testing.T) {
	t.Parallel()
	seeds(t, 40, func(t *testing.T, rng *rand.Rand) {
		log := makeLog(t, rng, 200)
		c := &cursor{state: newTestState()}
		n := uint64(0)
		for {
			d, ok, err := c.next(reader{log: log}, log.last())
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			for i, p := range d.payloads {
				n++
				if d.first+uint64(i) != n || p == nil {
					t.Fatalf("commit %d is numbered %d, nil: %v", n, d.first+uint64(i), p == nil)
				}
			}
			if c.state.commits != n {
				t.Fatalf("%d commits delivered, the state has %d", n, c.state.commits)
			}
		}
	})
}

// What is delivered is the consumer's own: it may write to it and append to it.
func TestDeliveredSlicesAreTheConsumers(t *testing.T) {
	t.Parallel()
	log := newMemLog()
	log.add(openRecord(t, 1, nodeN(1), 1))
	payloads := []string{"one", "", "three", string(bytes.Repeat([]byte("x"), slab+1)), "five", "", "seven"}
	list := items(payloads...)
	list = append(list[:3:3], append([]item{{void: true, payload: []byte("void")}}, list[3:]...)...)
	log.add(encodeBatch(nil, 1, 1, 0, list))
	before := proto.Clone(log.at(2)).(*raftpb.Entry)
	c := &cursor{state: newTestState()}
	var d delivery
	for range 2 {
		var err error
		if d, _, err = c.next(reader{log: log}, 2); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.payloads) != len(payloads) {
		t.Fatalf("%d payloads", len(d.payloads))
	}
	for i := range d.payloads {
		if string(d.payloads[i]) != payloads[i] || d.payloads[i] == nil {
			t.Fatalf("payload %d is %q", i, d.payloads[i])
		}
	}
	for i := range d.payloads {
		clear(d.payloads[i])
		_ = append(d.payloads[i], "scribble over whatever comes behind"...)
		for k := i + 1; k < len(payloads); k++ {
			if string(d.payloads[k]) != payloads[k] {
				t.Fatalf("writing to payload %d changed payload %d", i, k)
			}
		}
	}
	if !proto.Equal(before, log.at(2)) {
		t.Fatal("writing to payloads changed the log")
	}
}

func TestHalfDuplicateDeliversItsRest(t *testing.T) {
	t.Parallel()
	log := newMemLog()
	log.add(openRecord(t, 1, nodeN(1), 1))
	log.add(encodeBatch(nil, 1, 1, 0, items("a", "b")))
	log.add(encodeBatch(nil, 1, 1, 1, items("a", "b", "c")))
	log.add(encodeBatch(nil, 1, 5, 1, items("gap")))
	log.add(encodeBatch(nil, 2, 1, 1, items("nobody's")))
	got := drain(t, &cursor{state: newTestState()}, reader{log: log}, 5)
	want := []string{`2: commit 1 "a"`, `2: commit 2 "b"`, `3: commit 3 "c"`}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%v", got)
	}
}

// A snapshot is made by the session that was asked, and the base is loaded by
// everyone but who brought it.
func TestMakeAndBaseByWho(t *testing.T) {
	t.Parallel()
	log := newMemLog()
	log.add(openRecord(t, 1, nodeN(1), 1))
	log.add(openRecord(t, 2, nodeN(2), 1))
	log.add(record(t, KindBase, &grouppb.Base{Session: 1, Data: []byte("base")}))
	log.add(encodeBatch(nil, 2, 1, 0, items("x")))
	log.add(record(t, KindSnapshotRequest, &grouppb.SnapshotRequest{Session: 2}))
	log.add(record(t, KindSnapshotRequest, &grouppb.SnapshotRequest{Session: 3}))
	for mine, want := range map[uint64][]string{
		0: {`3: base "base"`, `4: commit 1 "x"`},
		1: {`4: commit 1 "x"`},
		2: {`3: base "base"`, `4: commit 1 "x"`, `5: make 1`},
		3: {`3: base "base"`, `4: commit 1 "x"`},
	} {
		got := drain(t, &cursor{state: newTestState(), mine: mine}, reader{log: log}, 6)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("session %d: %v", mine, got)
		}
	}
	// A base of no bytes holds nothing, and session 0 is nobody.
	log = newMemLog()
	log.add(record(t, KindBase, &grouppb.Base{}))
	log.add(record(t, KindSnapshotRequest, &grouppb.SnapshotRequest{}))
	if got := drain(t, &cursor{state: newTestState()}, reader{log: log}, 2); got != nil {
		t.Errorf("%v", got)
	}
}

// A cursor that is moved back behind a request which it has handed out, since
// the make failed, delivers the commits again but not the request.
func TestMakeThatFailedIsNotMetAgain(t *testing.T) {
	t.Parallel()
	log := newMemLog()
	log.add(openRecord(t, 1, nodeN(1), 1))
	log.add(encodeBatch(nil, 1, 1, 0, items("x")))
	log.add(record(t, KindSnapshotRequest, &grouppb.SnapshotRequest{Session: 1}))
	log.add(encodeBatch(nil, 1, 2, 0, items("y")))
	log.add(record(t, KindSnapshotRequest, &grouppb.SnapshotRequest{Session: 1, Attempt: 1}))
	c := &cursor{state: newTestState(), mine: 1}
	drain(t, c, reader{log: log}, 3)
	c.reset(newTestState())
	got := drain(t, c, reader{log: log}, 5)
	if want := []string{`2: commit 1 "x"`, `4: commit 2 "y"`, `5: make 2`}; !reflect.DeepEqual(got, want) {
		t.Fatalf("%v", got)
	}
}

type failingReader struct {
	reader
	err error
}

func (r *failingReader) entries(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	if r.err != nil {
		return nil, r.err
	}
	return r.reader.entries(lo, hi, maxBytes)
}

// An error leaves the cursor where it was, and the same question gets the same answer.
func TestCursorErrors(t *testing.T) {
	t.Parallel()
	log := newMemLog()
	log.add(openRecord(t, 1, nodeN(1), 1))
	log.add([]byte{entryVersion + 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	log.add(encodeBatch(nil, 1, 1, 0, items("x")))
	r := &failingReader{reader: reader{log: log}, err: errors.New("disk")}
	c := &cursor{state: newTestState()}
	if _, ok, err := c.next(r, 3); ok || !errors.Is(err, r.err) {
		t.Fatalf("%v, %v", ok, err)
	}
	r.err = nil
	if _, ok, err := c.next(r, 3); !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	for range 3 {
		if _, ok, err := c.next(r, 3); ok || !errors.Is(err, ErrNewerFormat) || c.state.index != 1 {
			t.Fatalf("%v, %v, at %d", ok, err, c.state.index)
		}
	}
	if _, ok, err := c.next(r, 1); ok || err != nil {
		t.Fatalf("at the limit: %v, %v", ok, err)
	}
	if _, _, err := (&cursor{state: newTestState()}).next(emptyReader{}, 3); err == nil {
		t.Fatal("a log without entries gave no error")
	}
	// A cursor that is moved forgets what it had read ahead.
	s := newTestState()
	mustApply(t, s, log.at(1))
	c.reset(s)
	if _, _, err := c.next(r, 3); !errors.Is(err, ErrNewerFormat) {
		t.Fatal(err)
	}
}

type emptyReader struct{}

func (emptyReader) entries(_, _, _ uint64) ([]*raftpb.Entry, error) { return nil, nil }
