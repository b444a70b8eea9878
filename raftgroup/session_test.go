package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/copycat-replication/copycat/pb/grouppb"
)

// nonceN is a nonce of its own for each number.
func nonceN(n uint64) (nonce [16]byte) {
	binary.BigEndian.PutUint64(nonce[:], n)
	return nonce
}

func tableWith(last uint64) *sessionTable {
	t := &sessionTable{}
	t.open(10, nodeN(1), 1, nonceN(10), 8)
	t.live[10].last = last
	return t
}

func TestSessionCount(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		session  uint64
		first    uint64
		n        uint32
		from     uint64
		verdict  verdict
		lastThen uint64
	}{
		{"next", 10, 6, 3, 6, verdictCounts, 8},
		{"duplicate", 10, 3, 3, 0, verdictDuplicate, 5},
		{"duplicate of the last alone", 10, 5, 1, 0, verdictDuplicate, 5},
		{"half a duplicate", 10, 4, 4, 6, verdictCounts, 7},
		{"all of it, and one more", 10, 1, 6, 6, verdictCounts, 6},
		{"gap of one", 10, 7, 1, 0, verdictGap, 5},
		{"far gap", 10, 1 << 60, 9, 0, verdictGap, 5},
		{"unknown session", 11, 1, 1, 0, verdictUnknown, 5},
		{"session 0", 0, 1, 1, 0, verdictUnknown, 5},
	} {
		table := tableWith(5)
		from, v := table.count(c.session, c.first, c.n)
		if from != c.from || v != c.verdict || table.live[10].last != c.lastThen {
			t.Errorf("%s: from %d, verdict %d, last %d", c.name, from, v, table.live[10].last)
		}
		if len(table.live) != 1 {
			t.Errorf("%s: a session was adopted", c.name)
		}
	}
}

// An ended session is not revived by a batch that comes late.
func TestEndedSessionIsNotAdopted(t *testing.T) {
	t.Parallel()
	table := tableWith(5)
	if !table.end(10) || table.end(10) {
		t.Fatal("a session ends once")
	}
	if _, v := table.count(10, 6, 1); v != verdictUnknown {
		t.Fatalf("verdict %d", v)
	}
	if last, live, known := table.last(10); last != 5 || live || !known {
		t.Fatalf("last %d, live %v, known %v", last, live, known)
	}
	if _, live, known := table.last(11); live || known {
		t.Fatal("a session that never was is known")
	}
}

func TestExpireIsVoidIfMovedOn(t *testing.T) {
	t.Parallel()
	table := tableWith(5)
	if table.expire(10, 4) || table.expire(10, 6) || table.expire(11, 0) {
		t.Fatal("expired although the session has moved on, or is not there")
	}
	if !table.expire(10, 5) {
		t.Fatal("not expired")
	}
}

func TestOpenClosesOlderIncarnations(t *testing.T) {
	t.Parallel()
	table := &sessionTable{}
	table.open(1, nodeN(1), 1, nonceN(1), 8)
	table.open(2, nodeN(1), 1, nonceN(2), 8) // a second subscription of the same process
	table.open(3, nodeN(2), 1, nonceN(3), 8)
	table.open(4, nodeN(1), 2, nonceN(4), 8)
	if _, live, _ := table.last(2); live || len(table.live) != 2 {
		t.Fatalf("live: %v", table.live)
	}
	// A late open of the older process closes nothing.
	if ended, ok := table.open(5, nodeN(1), 1, nonceN(5), 8); len(ended) != 0 || !ok {
		t.Fatalf("ended %v, ok %v", ended, ok)
	}
	if ended, _ := table.open(6, nodeN(1), 3, nonceN(6), 8); !reflect.DeepEqual(ended, []uint64{4, 5}) {
		t.Fatalf("ended %v", ended)
	}
}

func TestSessionLimit(t *testing.T) {
	t.Parallel()
	table := &sessionTable{}
	for i := range uint64(3) {
		if _, ok := table.open(i+1, nodeN(int(i)), 1, nonceN(i+1), 3); !ok {
			t.Fatal("refused below the limit")
		}
	}
	if _, ok := table.open(9, nodeN(9), 1, nonceN(9), 3); ok || len(table.live) != 3 {
		t.Fatal("opened beyond the limit")
	}
	// The new process of a node finds the place of the old one free.
	if ended, ok := table.open(10, nodeN(2), 2, nonceN(10), 3); !ok || len(ended) != 1 {
		t.Fatalf("ended %v, ok %v", ended, ok)
	}
}

func TestTombstonesAreBounded(t *testing.T) {
	t.Parallel()
	table := &sessionTable{}
	for i := range uint64(maxTombstones + 100) {
		table.open(i+1, nodeN(1), 1, nonceN(i+1), 8)
		table.count(i+1, 1, uint32(i+1))
		table.end(i + 1)
	}
	if len(table.tombs) != maxTombstones {
		t.Fatalf("%d tombstones", len(table.tombs))
	}
	if _, _, known := table.last(100); known {
		t.Fatal("the oldest was kept")
	}
	if last, _, known := table.last(101); !known || last != 101 {
		t.Fatalf("last %d, known %v", last, known)
	}
}

func TestSessionTableEncoding(t *testing.T) {
	t.Parallel()
	seeds(t, 50, func(t *testing.T, rng *rand.Rand) {
		table := &sessionTable{}
		for i := range uint64(rng.IntN(40) + 1) {
			table.open(i+1, nodeN(rng.IntN(4)), rng.Uint64N(3), nonceN(i+1), 10)
			table.count(rng.Uint64N(i+1)+1, 1, uint32(rng.IntN(9)+1))
			if rng.IntN(4) == 0 {
				table.end(rng.Uint64N(i+1) + 1)
			}
		}
		var m grouppb.State
		table.encode(&m)
		var back sessionTable
		if err := back.decode(&m); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back.sorted(), table.sorted()) || !reflect.DeepEqual(back.tombs, table.tombs) {
			t.Fatalf("%+v\n%+v", back, table)
		}
		// Both find and end the same from here on.
		for n := range 4 {
			a, _ := table.open(100, nodeN(n), 2, nonceN(100), 10)
			b, _ := back.open(100, nodeN(n), 2, nonceN(100), 10)
			if !reflect.DeepEqual(a, b) {
				t.Fatalf("node %d: ended %v and %v", n, a, b)
			}
			table.end(100)
			back.end(100)
		}
	})
	var bad sessionTable
	if err := bad.decode(&grouppb.State{Sessions: []*grouppb.Session{{Id: 1, Node: []byte("short")}}}); err == nil {
		t.Fatal("a node ID of five bytes was taken")
	}
	node := nodeN(1)
	twice := &grouppb.State{Sessions: []*grouppb.Session{{Id: 1, Node: node[:]}, {Id: 2, Node: node[:]}}}
	if err := bad.decode(twice); !errors.Is(err, ErrMalformedEntry) {
		t.Fatalf("two sessions of one nonce: %v", err)
	}
}

// TestSessionIndex holds the table's index of nodes and nonces against a walk
// over all sessions.
func TestSessionIndex(t *testing.T) {
	t.Parallel()
	seeds(t, 50, func(t *testing.T, rng *rand.Rand) {
		table := &sessionTable{}
		for i := range uint64(300) {
			node, incarnation := nodeN(rng.IntN(4)), rng.Uint64N(1+i/20)
			var older []uint64
			for _, s := range table.sorted() {
				if s.node == node && s.incarnation < incarnation {
					older = append(older, s.id)
				}
			}
			if ended, _ := table.open(i+1, node, incarnation, nonceN(i+1), 40); !slices.Equal(ended, older) {
				t.Fatalf("open %d ended %v, want %v", i+1, ended, older)
			}
			if rng.IntN(2) == 0 {
				table.end(rng.Uint64N(i+1) + 1)
			}
			total := 0
			for node, of := range table.byNode {
				total += len(of.byNonce)
				for nonce, s := range of.byNonce {
					if table.live[s.id] != s || table.opened(node, nonce) != s || s.incarnation < of.oldest {
						t.Fatalf("session %+v of node %s is not where it belongs", s, node)
					}
				}
				if len(of.byNonce) == 0 {
					t.Fatalf("node %s has no session and is remembered", node)
				}
			}
			if total != len(table.live) {
				t.Fatalf("%d sessions in the index, %d live", total, len(table.live))
			}
		}
	})
}

// BenchmarkSessionOpenClose opens and ends a session beside many others.
func BenchmarkSessionOpenClose(b *testing.B) {
	for _, others := range []uint64{0, 100, 4000} {
		b.Run(fmt.Sprint(others), func(b *testing.B) {
			table := &sessionTable{}
			for i := range others {
				table.open(i+1, nodeN(int(i%3)), 1, nonceN(i+1), 4096)
			}
			b.ReportAllocs()
			for n := others + 1; b.Loop(); n++ {
				if table.opened(nodeN(1), nonceN(n)) != nil {
					b.Fatal("opened before it was")
				}
				if _, ok := table.open(n, nodeN(1), 1, nonceN(n), 4096); !ok {
					b.Fatal("refused")
				}
				table.end(n)
			}
		})
	}
}
