package gossip

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/hashicorp/memberlist"
)

// TestScale runs 20 directories with 10,000 structures of 3 replicas each, and
// measures what one change and what the steady state cost. Packets are chosen
// as memberlist chooses them: three random nodes per round, 1,400 bytes each.
// It is not parallel, since it measures memory.
func TestScale(t *testing.T) {
	const nodes, structures, copies, packet = 20, 10_000, 3, 1400
	random := rand.New(rand.NewPCG(1, 2))
	lists := make([][]Replica, nodes)
	for s := range structures {
		for _, n := range random.Perm(nodes)[:copies] {
			lists[n] = append(lists[n], testReplicas(s)...)
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	directories := make([]*directory, nodes)
	queues := make([]*memberlist.TransmitLimitedQueue, nodes)
	for n := range nodes {
		directories[n] = newDirectory(testNode(n), 1, defaultLimits)
		queues[n] = &memberlist.TransmitLimitedQueue{RetransmitMult: 4, NumNodes: func() int { return nodes }}
		for other := range nodes {
			if err := directories[n].setAlive(testNode(other), 1, 1); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, _, err := directories[n].publish(lists[n]); err != nil {
			t.Fatal(err)
		}
	}
	// Catching up: everyone from its left neighbour, around the ring, as the
	// wire would carry it.
	catchUp := 0
	now := int64(1)
	round := func() (wants, bytes, hellos int) {
		for n, d := range directories {
			now += 1000
			from := directories[(n+nodes-1)%nodes]
			b, err := encodeHello(hello{sender{testCluster(1), from.self}, 1, from.vector()})
			if err != nil {
				t.Fatal(err)
			}
			hellos += len(b)
			d.compare(from.self, from.vector(), now)
			for more := true; more; {
				more = false
				for _, w := range d.wants(now, 1, 0, nodes) {
					wants++
					server := directories[slices.IndexFunc(directories, func(d *directory) bool { return d.self == w.from })]
					updates, _ := server.pages(w.since, maxPageBytes, maxAnswerBytes)
					b, err := encodePage(page{sender{testCluster(1), server.self}, updates, true})
					if err != nil {
						t.Fatal(err)
					}
					bytes += len(b)
					for i := range updates {
						if _, err := d.apply(&updates[i], now); err != nil {
							t.Fatal(err)
						}
						more = true
					}
					d.answeredBy(server.self, updates)
				}
			}
		}
		return wants, bytes, hellos
	}
	rounds := 0
	for ; ; rounds++ {
		wants, bytes, _ := round()
		catchUp += bytes
		if wants == 0 {
			break
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	perDirectory := (after.HeapAlloc - min(before.HeapAlloc, after.HeapAlloc)) / nodes
	for _, d := range directories {
		if d.live != structures*copies {
			t.Fatalf("node %s knows %d replicas, want %d", d.self, d.live, structures*copies)
		}
	}

	// One change: one replica goes from node 0.
	from, to, whole, err := directories[0].publish(lists[0][1:])
	if err != nil {
		t.Fatal(err)
	}
	send := func(n int, u *update) {
		b, err := encodeDelta(testCluster(1), u)
		if err != nil {
			t.Fatal(err)
		}
		queues[n].QueueBroadcast(deltaBroadcast{b})
	}
	for _, u := range directories[0].announce(from, to, whole) {
		send(0, &u)
	}
	gossiped, gossipRounds, informedAfter := 0, 0, 0
	for sent := true; sent; gossipRounds++ {
		sent = false
		informed := 0
		for n, d := range directories {
			if d.nodes[testNode(0)].version().sequence == to {
				informed++
			}
			for _, peer := range random.Perm(nodes)[:3] {
				for _, b := range queues[n].GetBroadcasts(3, packet) {
					sent = true
					gossiped += len(b)
					_, u, err := decodeDelta(b[2:])
					if err != nil {
						t.Fatal(err)
					}
					if out, err := directories[peer].apply(&u, now); err != nil {
						t.Fatal(err)
					} else if out.fresh {
						send(peer, &u)
					}
				}
			}
		}
		if informed == nodes && informedAfter == 0 {
			informedAfter = gossipRounds
		}
	}

	// Steady state: only the vectors travel.
	wants, bytes, hellos := round()
	if informedAfter == 0 {
		wants, bytes, hellos = round() // the broadcast missed someone; that round brought it
	}
	if wants != 0 || bytes != 0 {
		t.Fatalf("in steady state: %d requests, %d bytes of pages", wants, bytes)
	}
	t.Logf("%d structures × %d replicas on %d nodes", structures, copies, nodes)
	t.Logf("memory: %d KiB per directory", perDirectory/1024)
	t.Logf("from nothing: %d KiB of pages per node, %d exchanges each", catchUp/nodes/1024, rounds)
	t.Logf("one change: %d bytes in all, everyone informed after %d gossip rounds", gossiped, informedAfter)
	t.Logf("steady state: %d bytes per push/pull and side", hellos/nodes)
	for name, check := range map[string]bool{
		"memory per directory":   perDirectory > 16<<20,
		"bytes from nothing":     catchUp/nodes > 3<<20,
		"bytes after one change": gossiped > 32<<10,
		"bytes in steady state":  hellos/nodes > 2<<10,
	} {
		if check {
			t.Errorf("too much: %s", name)
		}
	}
}
