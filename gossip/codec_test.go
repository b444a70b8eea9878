package gossip

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/gossippb"
	"github.com/hashicorp/memberlist"
	"pgregory.net/rapid"
)

func drawUpdate(t *rapid.T) update {
	u := update{
		node:  testNode(rapid.IntRange(0, 9).Draw(t, "node")),
		epoch: epoch{rapid.Uint64().Draw(t, "incarnation"), rapid.Uint32().Draw(t, "generation")},
		from:  rapid.Uint64Range(0, math.MaxUint64-100).Draw(t, "from"), head: rapid.Uint64Min(1).Draw(t, "head"),
		changes: []change{},
	}
	u.to = u.from
	for range rapid.IntRange(0, 8).Draw(t, "changes") {
		u.to += rapid.Uint64Range(1, 9).Draw(t, "step")
		u.changes = append(u.changes, change{
			id.Group{Structure: testStructure(rapid.IntRange(0, 99).Draw(t, "structure")), Incarnation: id.Incarnation{
				Birth: rapid.Uint64().Draw(t, "birth"), Recovery: rapid.Uint32().Draw(t, "recovery")}},
			entry{id.Replica(rapid.Uint64().Draw(t, "replica")), rapid.Byte().Draw(t, "role"), rapid.Bool().Draw(t, "removed"), u.to},
		})
	}
	return u
}

func TestMessagesRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		from := sender{testCluster(rapid.IntRange(0, 3).Draw(t, "cluster")), testNode(rapid.IntRange(0, 9).Draw(t, "sender"))}
		vector := []version{}
		for n := range rapid.IntRange(0, 5).Draw(t, "vector") {
			vector = append(vector, version{testNode(n), epoch{rapid.Uint64().Draw(t, "i"), rapid.Uint32().Draw(t, "g")}, rapid.Uint64().Draw(t, "s")})
		}
		check := func(name string, kind byte, b []byte, err error, decode func([]byte) (any, error), want any) {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got, body, err := open(b)
			if err != nil || got != kind {
				t.Fatalf("%s: kind %d, %v", name, got, err)
			}
			value, err := decode(body)
			if err != nil || !reflect.DeepEqual(value, want) {
				t.Fatalf("%s: %+v, %v, want %+v", name, value, err, want)
			}
		}
		h := hello{from, rapid.Uint64().Draw(t, "incarnation"), vector}
		b, err := encodeHello(h)
		check("hello", kindHello, b, err, func(b []byte) (any, error) { return decodeHello(b) }, h)
		b, err = encodeWant(from, vector)
		check("want", kindWant, b, err, func(b []byte) (any, error) {
			s, v, err := decodeWant(b)
			return []any{s, v}, err
		}, []any{from, vector})
		p := page{from, []update{}, rapid.Bool().Draw(t, "last")}
		for range rapid.IntRange(0, 3).Draw(t, "updates") {
			p.updates = append(p.updates, drawUpdate(t))
		}
		b, err = encodePage(p)
		check("page", kindPage, b, err, func(b []byte) (any, error) { return decodePage(b) }, p)
		u := drawUpdate(t)
		b, err = encodeDelta(from.cluster, &u)
		check("delta", kindDelta, b, err, func(b []byte) (any, error) {
			c, u, err := decodeDelta(b)
			return []any{c, u}, err
		}, []any{from.cluster, u})
		if bound := u.size() + messageOverhead; len(b) > bound {
			t.Fatalf("delta of %d bytes, said to be at most %d", len(b), bound)
		}
	})
}

// A delta that does not fit a packet is never sent, without a word: see to it
// that the worst one fits.
func TestDeltasFitPackets(t *testing.T) {
	t.Parallel()
	d := newDirectory(testNode(0), math.MaxUint64, defaultLimits)
	d.own.current.generation = math.MaxUint32
	d.own.current.head, d.own.current.cover.prefix = math.MaxUint64-200, math.MaxUint64-200
	var replicas []Replica
	for n := range maxDeltaChanges {
		replicas = append(replicas, Replica{id.Group{Structure: testStructure(n), Incarnation: id.Incarnation{
			Birth: math.MaxUint64, Recovery: math.MaxUint32}}, math.MaxUint64, 255})
	}
	from, to, whole, err := d.publish(replicas)
	if err != nil {
		t.Fatal(err)
	}
	updates := d.announce(from, to, whole)
	if len(updates) < 2 {
		t.Fatalf("%d deltas", len(updates))
	}
	for _, u := range updates {
		b, err := encodeDelta(testCluster(1), &u)
		if err != nil || len(b) > maxDeltaBytes {
			t.Fatalf("delta of %d bytes, %v", len(b), err)
		}
	}
}

func TestMalformedMessages(t *testing.T) {
	t.Parallel()
	node := testNode(1)
	structure := testStructure(1)
	entries := func(offsets ...uint64) (list []*gossippb.Entry) {
		for _, o := range offsets {
			list = append(list, &gossippb.Entry{Structure: structure[:], Offset: o})
		}
		return list
	}
	for name, w := range map[string]*gossippb.Update{
		"nothing":              nil,
		"no node":              {From: 1, To: 2},
		"backwards":            {Node: node[:], From: 2, To: 1},
		"says nothing":         {Node: node[:]},
		"more than the range":  {Node: node[:], From: 1, To: 2, Entries: entries(1, 2)},
		"beyond the range":     {Node: node[:], From: 1, To: 3, Entries: entries(3)},
		"not in the range":     {Node: node[:], From: 1, To: 3, Entries: entries(0)},
		"the same twice":       {Node: node[:], From: 1, To: 5, Entries: entries(2, 2)},
		"out of order":         {Node: node[:], From: 1, To: 5, Entries: entries(3, 2)},
		"a short structure":    {Node: node[:], From: 1, To: 2, Entries: []*gossippb.Entry{{Structure: []byte{1}, Offset: 1}}},
		"a role of two bytes":  {Node: node[:], From: 1, To: 2, Entries: []*gossippb.Entry{{Structure: structure[:], Offset: 1, Role: 256}}},
		"an offset that wraps": {Node: node[:], From: 5, To: 6, Entries: entries(math.MaxUint64)},
	} {
		if _, err := updateFromWire(w); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "one byte": {formatVersion}, "huge": append([]byte{formatVersion, kindPage}, make([]byte, maxMessageBytes)...),
	} {
		if _, _, err := open(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := open([]byte{formatVersion + 1, kindPage}); !errors.Is(err, ErrVersion) {
		t.Errorf("a newer version: %v", err)
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	longest := identity{
		cluster: testCluster(1), incarnation: math.MaxUint64, transportPort: 65535, host: strings.Repeat("h", maxHost),
		dataCenter: strings.Repeat("d", maxLocation), rack: strings.Repeat("r", maxLocation), capacity: math.MaxUint32,
		version: math.MaxUint32, leaving: true,
	}
	for _, m := range []identity{{}, {cluster: testCluster(2), incarnation: 3}, longest} {
		b, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeIdentity(b); err != nil || got != m {
			t.Errorf("%+v, %v, want %+v", got, err, m)
		}
	}
	if b, err := longest.encode(); err != nil || len(b) > 470 || len(b) > memberlist.MetaMaxSize {
		t.Errorf("the longest metadata has %d bytes, %v", len(b), err)
	}
	if _, err := decodeIdentity([]byte{2, 0}); !errors.Is(err, ErrVersion) {
		t.Errorf("a newer version: %v", err)
	}
	for _, b := range [][]byte{nil, {1, 0xff}, bytes.Repeat([]byte{1}, 513), {1, 10, 1, 7}} {
		if _, err := decodeIdentity(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%v: %v", b, err)
		}
	}
}

// FuzzMessage feeds a member whatever comes. It must neither panic nor let the
// directory's books go wrong, and what it accepts must encode to the same again.
func FuzzMessage(f *testing.F) {
	d := newDirectory(testNode(1), 1, defaultLimits)
	if _, _, _, err := d.publish(testReplicas(1, 2, 3)); err != nil {
		f.Fatal(err)
	}
	update, _ := d.own.current.collect(d.self, 0, 1000)
	from := sender{testCluster(1), d.self}
	for _, encode := range []func() ([]byte, error){
		func() ([]byte, error) { return encodeHello(hello{from, 1, d.vector()}) },
		func() ([]byte, error) { return encodeDelta(from.cluster, &update) },
		func() ([]byte, error) { return encodeWant(from, d.vector()) },
		func() ([]byte, error) { return encodePage(page{from, append(d.announce(3, 3, true), update), true}) },
		func() ([]byte, error) { return identity{cluster: from.cluster, host: "h"}.encode() },
	} {
		b, err := encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeIdentity(b); err == nil {
			again, err := m.encode()
			if err != nil {
				t.Fatal(err)
			}
			if back, err := decodeIdentity(again); err != nil || back != m {
				t.Fatalf("%+v came back as %+v, %v", m, back, err)
			}
		}
		g := newGossip(testConfig(0))
		defer g.cancel()
		if err := g.setIdentity(from.cluster, false); err != nil {
			t.Fatal(err)
		}
		for n := 1; n < 3; n++ {
			g.takeEvent(nodeEvent{node: testNode(n), alive: true, identity: identity{cluster: from.cluster, incarnation: 1}})
		}
		_ = g.takeMessage(b)
		_ = g.takeMessage(b)
		checkIndex(t, g.directory)
		g.directory.wants(1, 1, 1, 8)
		if len(g.hello()) == 0 {
			t.Fatal("no hello")
		}
	})
}
