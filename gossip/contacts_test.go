package gossip

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func testContacts(peers, remembered []string) *contacts {
	c := &contacts{}
	c.init(peers, remembered, rand.New(rand.NewPCG(1, 1)), time.Unix(1000, 0))
	return c
}

func testAddress(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 7000)
}

// Of too many addresses the latest lost stay, and live ones come first.
func TestRememberedAddressesAreBounded(t *testing.T) {
	t.Parallel()
	var remembered []string
	for n := range 1000 {
		remembered = append(remembered, fmt.Sprintf("10.1.%d.%d:1", n>>8, n&255))
	}
	c := testContacts(nil, append(remembered, "not an address"))
	if got := len(c.addresses()); got != maxRemembered {
		t.Fatalf("%d addresses", got)
	}
	for n := range 300 {
		m := &member{address: testAddress(n), alive: true}
		c.moved(m, false, netip.AddrPort{}, time.Unix(2000, 0))
		if n >= 2 {
			m.alive = false
			c.moved(m, true, m.address, time.Unix(int64(2000+n), 0))
		}
	}
	got := c.addresses()
	if len(got) != maxRemembered || c.alive.Load() != 2 {
		t.Fatalf("%d addresses, %d alive", len(got), c.alive.Load())
	}
	for n := range 300 {
		want := n < 2 || n >= 300-(maxRemembered-2)
		if slices.Contains(got, testAddress(n).String()) != want {
			t.Fatalf("address %d of a lost node: remembered %t, want %t", n, !want, want)
		}
	}
	c.expire(time.Unix(2000, 0).Add(time.Hour+150*time.Second), time.Hour)
	if got := len(c.addresses()); got != 2+150 {
		t.Fatalf("%d addresses after those lost before 150 are forgotten", got)
	}
}

// Each round takes the latest lost, and comes to all others in time.
func TestContactsComeToEveryone(t *testing.T) {
	t.Parallel()
	c := testContacts([]string{"peer-a:1", "peer-b:1"}, nil)
	for n := range 20 {
		c.moved(&member{address: testAddress(n)}, false, netip.AddrPort{}, time.Unix(int64(n), 0))
	}
	seen := make(map[string]bool)
	for range 20 {
		picked := c.candidates(perRejoin)
		if len(picked) != perRejoin || picked[0] != testAddress(19).String() || picked[1] != testAddress(18).String() {
			t.Fatalf("picked %v", picked)
		}
		for _, address := range picked {
			seen[address] = true
		}
	}
	if len(seen) != 22 {
		t.Fatalf("came to %d of 22 addresses", len(seen))
	}
	if all := c.candidates(100); len(all) != 22 {
		t.Fatalf("all are %d", len(all))
	}
	// Who is alive, or ourselves, is not contacted.
	c.moved(&member{address: testAddress(3), alive: true}, false, netip.AddrPort{}, time.Unix(99, 0))
	c.markMine(testAddress(4).String())
	if c.wanted(testAddress(3)) || c.wanted(testAddress(4)) || !c.wanted(testAddress(5)) {
		t.Fatal("the wrong addresses are wanted")
	}
}

// A node without peers queues no more than the bound, whatever it publishes.
func TestBroadcastsAreBounded(t *testing.T) {
	t.Parallel()
	m := start(t, testConfig(0))
	m.Found(testCluster(1))
	for n := range maxQueued + 100 {
		m.Publish(testReplicas(n))
	}
	if s := m.Stats(); s.Queued > maxQueued || s.Dropped == 0 {
		t.Fatalf("%+v", s)
	}
}

// Whoever is refused again and again, for ever other reasons and under ever other
// names, does not fill the log; nor does he end it for others for good.
func TestRefusalsInTheLogAreBounded(t *testing.T) {
	t.Parallel()
	c := testContacts(nil, nil)
	now := time.Unix(1000, 0)
	if !c.firstRefusal("a", "x", now) || c.firstRefusal("a", "x", now.Add(time.Hour)) || !c.firstRefusal("b", "x", now) {
		t.Fatal("one and the same is told once")
	}
	told := 0
	for i := range 1000 {
		if c.firstRefusal("a", fmt.Sprint("x", i%2), now.Add(time.Hour)) {
			told++
		}
		if c.firstRefusal(fmt.Sprint(i), "x", now.Add(time.Hour)) {
			told++
		}
	}
	if told > 2*maxKnownQuarrels {
		t.Errorf("told %d times at once", told)
	}
	if !c.firstRefusal("c", "x", now.Add(2*time.Hour)) {
		t.Error("who comes later is never told of")
	}
	if len(c.quarrels) > maxKnownQuarrels {
		t.Errorf("%d refusals are remembered", len(c.quarrels))
	}
}
