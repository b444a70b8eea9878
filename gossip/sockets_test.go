package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/hashicorp/memberlist"
)

func start(t *testing.T, c Config) *Gossip {
	t.Helper()
	m, err := startGossip(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return m.(*Gossip)
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	c := testConfig(0)
	c.BindPort = tcp.Addr().(*net.TCPAddr).Port
	if _, err := Start(c); !errors.Is(err, ErrAddressInUse) || !strings.Contains(err.Error(), tcp.Addr().String()) {
		t.Errorf("TCP port taken: %v", err)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = udp.Close() }()
	c.BindPort = udp.LocalAddr().(*net.UDPAddr).Port
	if _, err := Start(c); !errors.Is(err, ErrAddressInUse) || !strings.Contains(err.Error(), udp.LocalAddr().String()) {
		t.Errorf("UDP port taken: %v", err)
	}
}

func TestConfigFaultsAreAllReported(t *testing.T) {
	t.Parallel()
	c := Config{BindAddress: "nowhere", BindPort: -1, TransportPort: 70000, Key: []byte("short"), Peers: []string{"a", "b:0"}, Profile: 9,
		DataCenter: strings.Repeat("x", 65), AdvertiseHost: strings.Repeat("x", 254)}
	_, err := Start(c)
	if !errors.Is(err, ErrConfig) {
		t.Fatalf("%v", err)
	}
	for _, word := range []string{"Node", "BindAddress", "BindPort", "TransportPort", "Key", `"a"`, `"b:0"`, "Profile(9)", "DataCenter", "AdvertiseHost"} {
		if word == `"a"` {
			word = "address a"
		}
		if !strings.Contains(err.Error(), word) {
			t.Errorf("no word of %s in: %v", word, err)
		}
	}
	c = testConfig(0)
	c.AdvertiseHost = "no-such-host.invalid"
	if _, err := Start(c); !errors.Is(err, ErrNoAddress) || !strings.Contains(err.Error(), c.AdvertiseHost) {
		t.Errorf("unknown host: %v", err)
	}
}

// A host name is resolved for gossip, and kept for the transport.
func TestAdvertisedHostName(t *testing.T) {
	t.Parallel()
	c := testConfig(0)
	c.AdvertiseHost = "localhost"
	first := start(t, c)
	first.Found(testCluster(1))
	host, port := first.Addr()
	if host != "localhost" {
		t.Fatalf("advertises %s", host)
	}
	second := start(t, testConfig(1, addressOf(first)))
	join(t, second)
	untilAlive(t, second, 0, 1)
	n, _ := second.Node(testNode(0))
	if n.Transport != "localhost:9000" || n.Address != fmt.Sprintf("127.0.0.1:%d", port) {
		t.Fatalf("%+v", n)
	}
	if got, _ := first.Node(testNode(0)); got.Transport != n.Transport || got.Address != n.Address {
		t.Fatalf("of itself it says %+v, others %+v", got, n)
	}
}

func TestEncrypted(t *testing.T) {
	t.Parallel()
	with := func(n int, key string, peers ...string) Config {
		c := testConfig(n, peers...)
		if key != "" {
			c.Key = []byte(key)
		}
		return c
	}
	const key = "0123456789abcdef"
	first := start(t, with(0, key))
	first.Found(testCluster(1))
	second := start(t, with(1, key, addressOf(first)))
	join(t, second)
	first.Publish(testReplicas(1))
	untilHolds(t, second, 1, 0)
	for n, wrong := range []string{"", "fedcba9876543210"} {
		third := start(t, with(2+n, wrong, addressOf(first)))
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if cluster, err := third.Join(ctx); !errors.Is(err, ErrNoCluster) {
			t.Errorf("with key %q it joined %s, %v", wrong, cluster, err)
		}
		cancel()
	}
	untilAlive(t, first, 0, 1)
}

// A wiped data directory: the address stays, the ID is new.
func TestSameAddressNewNode(t *testing.T) {
	t.Parallel()
	members := socketsLab(t).grow(t, 3)
	_, port := members[2].Addr()
	closeNow(t, members[2])
	c := testConfig(7, addressOf(members[0]))
	c.BindPort = port
	again := start(t, c)
	join(t, again)
	again.Publish(testReplicas(1))
	for _, m := range []membership{members[0], members[1], again} {
		untilAlive(t, m, 0, 1, 7)
		untilHolds(t, m, 1, 7)
	}
}

// A quick restart: back before anyone has noticed, at the same address or not.
func TestQuickRestart(t *testing.T) {
	t.Parallel()
	for name, same := range map[string]bool{"same address": true, "new address": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			members := socketsLab(t).grow(t, 3)
			members[2].Publish(testReplicas(1, 2))
			untilHolds(t, members[0], 2, 2)
			_, port := members[2].Addr()
			closeNow(t, members[2])
			c := testConfig(2)
			c.Incarnation, c.Cluster, c.Remembered = 2, testCluster(1), []string{addressOf(members[0])}
			if same {
				c.BindPort = port
			}
			again := start(t, c)
			again.Found(testCluster(1))
			again.Publish(testReplicas(2, 3))
			for _, m := range []membership{members[0], members[1]} {
				until(t, m, "the new life is seen", func() bool {
					n, _ := m.Node(testNode(2))
					return n.Alive && n.Incarnation == 2 && n.Address == addressOf(again)
				})
				untilHolds(t, m, 1)
				untilHolds(t, m, 3, 2)
			}
			untilAlive(t, again, 0, 1, 2)
		})
	}
}

// Everyone is given the same list of peers, themselves included.
func TestSelfAmongPeers(t *testing.T) {
	t.Parallel()
	var ports [2]int
	for i := range ports {
		probe := start(t, testConfig(50+i))
		_, ports[i] = probe.Addr()
		closeNow(t, probe)
	}
	peers := []string{fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("localhost:%d", ports[1])}
	var members [2]*Gossip
	for i := range members {
		c := testConfig(i, peers...)
		c.BindPort = ports[i]
		members[i] = start(t, c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if cluster, err := members[0].Join(ctx); !errors.Is(err, ErrNoCluster) {
		t.Fatalf("joined %s, %v", cluster, err)
	}
	members[0].Found(testCluster(1))
	join(t, members[1])
	untilAlive(t, members[0], 0, 1)
	untilAlive(t, members[1], 0, 1)
}

// A peer that accepts and says nothing holds up neither Join nor Close.
func TestSilentPeer(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	c := testConfig(0, silent.Addr().String())
	c.Profile, c.BindAddress = WAN, "127.0.0.1" // 30 s for a stream
	m := start(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := m.Join(ctx); !errors.Is(err, ErrNoCluster) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := m.Join(context.Background())
		result <- err
	}()
	closeNow(t, m)
	if err := <-result; !errors.Is(err, ErrClosed) {
		t.Errorf("Join ends with %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}

// Rubbish on the port, and in user messages, disturbs nobody.
func TestRubbish(t *testing.T) {
	t.Parallel()
	members := socketsLab(t).grow(t, 2)
	for _, b := range [][]byte{{0}, []byte("GET / HTTP/1.0\r\n\r\n"), bytes.Repeat([]byte{0xff}, 3000), {244, 7, 'c', 'o', 'p', 'y', 'c', 'a', 't', 8, 1, 4, 99}} {
		for _, network := range []string{"udp", "tcp"} {
			conn, err := net.Dial(network, addressOf(members[0]))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write(b)
			_ = conn.Close()
		}
	}
	sender := members[1].(*Gossip)
	sender.mu.RLock()
	to := sender.members[testNode(0)].target(testNode(0))
	sender.mu.RUnlock()
	for _, b := range [][]byte{{}, {1}, {1, kindPage, 0xff}, {9, 1, 2}, {1, 200}, bytes.Repeat([]byte{1}, maxMessageBytes+1)} {
		if err := sender.list.SendReliable(to, b); err != nil {
			t.Fatal(err)
		}
	}
	members[1].Publish(testReplicas(1))
	untilHolds(t, members[0], 1, 1)
	first := members[0].(*Gossip)
	for deadline := time.Now().Add(patience); first.Stats().Malformed < 3 || first.Stats().Dropped < 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not counted: %+v", first.Stats())
		}
	}
}

// Calls from many goroutines while nodes come and go.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	members := socketsLab(t).grow(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var all sync.WaitGroup
	for i, m := range members {
		for j := range 3 {
			all.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					switch j {
					case 0:
						m.Publish(testReplicas(i, n%300, n%7))
					case 1:
						m.Holders(testStructure(n % 7))
						m.Nodes()
						m.Stats()
					case 2:
						m.Found(testCluster(1))
						select {
						case <-m.Changed():
						case <-ctx.Done():
						}
					}
				}
			})
		}
	}
	all.Go(func() {
		for n := 2; ctx.Err() == nil; n++ {
			visitor := start(t, testConfig(n, addressOf(members[0])))
			if _, err := visitor.Join(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			closeNow(t, visitor)
		}
	})
	all.Wait()
	members[0].Publish(testReplicas(1000))
	untilHolds(t, members[1], 1000, 0)
	members[1].Publish(nil)
	until(t, members[1], "nothing else is left", func() bool { return members[1].Stats().Replicas == 1 })
}

// A member stays where it is, and a foreigner's nodes stay out, whichever way
// they come: in a push/pull or in an alive message.
func TestForeignersStayOut(t *testing.T) {
	t.Parallel()
	m := start(t, testConfig(0))
	m.Found(testCluster(1))
	m.Found(testCluster(2))
	if m.cluster() != testCluster(1) {
		t.Fatalf("it changed over to %s", m.cluster())
	}
	node := func(n int, cluster id.Cluster) *memberlist.Node {
		meta, err := identity{cluster: cluster}.encode()
		if err != nil {
			t.Fatal(err)
		}
		return &memberlist.Node{Name: testNode(n).String(), Addr: net.IPv4(127, 0, 0, 1), Port: 1, Meta: meta}
	}
	d := delegate{m}
	friend, foreigner, looking := node(1, testCluster(1)), node(2, testCluster(2)), node(3, id.Cluster{})
	newer := node(4, testCluster(1))
	newer.Meta[0] = 2
	nameless := node(5, testCluster(1))
	nameless.Name = "nobody"
	for _, test := range []struct {
		node *memberlist.Node
		want error
	}{{friend, nil}, {foreigner, ErrWrongCluster}, {looking, errLooking}, {newer, ErrVersion}, {nameless, ErrMalformed}} {
		if err := d.NotifyAlive(test.node); !errors.Is(err, test.want) || test.want == nil && err != nil {
			t.Errorf("%s alive: %v, want %v", test.node.Name, err, test.want)
		}
	}
	for _, test := range []struct {
		nodes []*memberlist.Node
		want  error
	}{
		{nil, nil}, {[]*memberlist.Node{friend}, nil}, {[]*memberlist.Node{foreigner, friend}, nil},
		{[]*memberlist.Node{looking, nameless}, nil}, {[]*memberlist.Node{looking, foreigner}, ErrWrongCluster},
	} {
		if err := d.NotifyMerge(test.nodes); !errors.Is(err, test.want) || test.want == nil && err != nil {
			t.Errorf("merging with %v: %v, want %v", test.nodes, err, test.want)
		}
	}
	u := update{node: testNode(1), epoch: epoch{1, 0}, to: 1, head: 1}
	b, err := encodeDelta(testCluster(2), &u)
	if err != nil {
		t.Fatal(err)
	}
	before := m.Stats().Foreign
	if err := m.takeMessage(b); err != nil || m.Stats().Foreign != before+1 {
		t.Errorf("a foreigner's delta: %v, %+v", err, m.Stats())
	}
}

func TestPeerThatKnowsALaterListOfOurs(t *testing.T) {
	t.Parallel()
	var out syncBuffer
	c := testConfig(0)
	c.Logger = slog.New(slog.NewTextHandler(&out, nil))
	m := start(t, c)
	m.Found(testCluster(1))
	b, err := encodeHello(hello{sender{testCluster(1), testNode(1)}, 1, []version{{testNode(0), epoch{9, 0}, 4}}})
	if err != nil {
		t.Fatal(err)
	}
	m.inbox.putMessage(b)
	for deadline := time.Now().Add(patience); !strings.Contains(out.String(), "set back"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not logged: %s", out.String())
		}
	}
}
