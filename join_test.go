package copycat

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/gossip"
	"github.com/copycat-replication/copycat/id"
)

// deadPeer is an address where nobody listens.
func deadPeer(t testing.TB) string {
	host := ownHost()
	return fmt.Sprintf("%s:%d", host, freePort(t, host))
}

// silentPeer is an address where connections are taken and nothing is said.
func silentPeer(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() }) // nobody accepts: the kernel does
	return l.Addr().String()
}

// TestNoCluster wants ErrNoCluster after JoinTimeout from a node whose peers
// do not answer, and the directory fit for the next try.
func TestNoCluster(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "", deadPeer(t), silentPeer(t))
	cfg.JoinTimeout = time.Second
	began := time.Now()
	err := refused(t, cfg, ErrNoCluster)
	took := time.Since(began)
	if took < cfg.JoinTimeout || took > time.Minute {
		t.Errorf("took %s, JoinTimeout is %s", took, cfg.JoinTimeout)
	}
	if !strings.Contains(err.Error(), cfg.PeersToContact[0]) {
		t.Errorf("%v does not name the peer %s", err, cfg.PeersToContact[0])
	}
	mustBeClosed(t, cfg.CopyCatDataDir)
	refused(t, cfg, ErrNoCluster) // having tried does not make it a member
	cfg.Bootstrap = true
	cc := works(t, cfg)
	if st := cc.Status(); st.ClusterID == "" || len(st.Nodes) != 1 {
		t.Errorf("status %+v", st)
	}
}

// TestPeerByItsOtherPort gives a node the CopyCatPort of a member in the place of its
// GossipPort, as is easily done: the error says what was mistaken for what.
func TestPeerByItsOtherPort(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "", start(t, testConfig(t, "")).Status().CopyCatAddress)
	cfg.JoinTimeout = time.Second
	err := refused(t, cfg, ErrNoCluster)
	for try := 1; !strings.Contains(err.Error(), "gossip port"); try++ {
		if try == 30 { // a busy machine may not connect, or not answer, in time
			t.Fatalf("%v does not say that a gossip port is wanted", err)
		}
		err = refused(t, cfg, ErrNoCluster)
	}
}

// TestBootstrapJoins wants a node with Bootstrap to join the cluster that
// answers, and to make none of its own. The peers come in one string.
func TestBootstrapJoins(t *testing.T) {
	t.Parallel()
	first := start(t, testConfig(t, ""))
	cfg := testConfig(t, "", "  "+deadPeer(t)+"   "+first.Status().GossipAddress+" ")
	cfg.Bootstrap = true
	second := start(t, cfg)
	if a, b := first.Status().ClusterID, second.Status().ClusterID; a != b {
		t.Fatalf("clusters %s and %s", a, b)
	}
	for _, n := range []CopyCat{first, second} {
		waitStatus(t, n, "two nodes alive", func(s Status) bool { return alive(s) == 2 })
	}
}

// TestComeBack has the nodes of a cluster come back one by one, without peers
// or with peers that are not there, the first node included: each returns at
// once, and they find each other again in the same cluster.
func TestComeBack(t *testing.T) {
	t.Parallel()
	cfgs := []*Config{testConfig(t, ""), testConfig(t, ""), testConfig(t, "")}
	for _, c := range cfgs {
		c.Hostname = ownHost() // where its ports are free when it comes back
	}
	nodes := []CopyCat{start(t, cfgs[0]), nil, nil}
	for i := 1; i < 3; i++ {
		cfgs[i].PeersToContact = []string{nodes[0].Status().GossipAddress}
		nodes[i] = start(t, cfgs[i])
	}
	var before []Status
	for _, n := range nodes {
		waitStatus(t, n, "three nodes alive", func(s Status) bool { return alive(s) == 3 })
		before = append(before, n.Status())
	}
	l := newList(t, nodes[0], sampleID)
	l.propose <- []byte("before")
	l.waitFor(1)
	for _, n := range nodes {
		n.Shutdown()
	}
	<-l.done
	cfgs[0].PeersToContact = nil
	cfgs[1].PeersToContact = nil
	cfgs[2].PeersToContact = []string{deadPeer(t), silentPeer(t)}
	for _, i := range []int{2, 0, 1} { // the last to come first, alone
		cfgs[i].JoinTimeout = time.Hour // waiting for it would be noticed
		began := time.Now()
		nodes[i] = start(t, cfgs[i])
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("node %d took %s", i, took)
		}
		now := nodes[i].Status()
		if now.ClusterID != before[i].ClusterID || now.NodeID != before[i].NodeID || now.GossipAddress != before[i].GossipAddress || now.CopyCatAddress != before[i].CopyCatAddress {
			t.Errorf("node %d was %+v and is %+v", i, before[i], now)
		}
		if now.Incarnation <= before[i].Incarnation {
			t.Errorf("node %d: incarnation %d after %d", i, now.Incarnation, before[i].Incarnation)
		}
	}
	for i, n := range nodes {
		waitStatus(t, n, fmt.Sprintf("three nodes alive at %d", i), func(s Status) bool { return alive(s) == 3 && len(s.Nodes) == 3 })
	}
	l = newList(t, nodes[1], sampleID)
	l.propose <- []byte("after")
	l.waitFor(2)
	if got := l.all(); got[0] != "before" || got[1] != "after" {
		t.Errorf("lines %q", got)
	}
}

// logBuffer keeps what is logged.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) contains(s string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.text.String(), s)
}

// TestForeignCluster points a node that has a cluster at a node of another
// one: it says so, naming both, and the two never mix.
func TestForeignCluster(t *testing.T) {
	t.Parallel()
	cfgA, cfgB := testConfig(t, ""), testConfig(t, "")
	works(t, cfgB).Shutdown()
	a := start(t, cfgA)
	heard := &logBuffer{}
	cfgB.Logger = slog.New(slog.NewTextHandler(heard, nil))
	cfgB.PeersToContact = []string{a.Status().GossipAddress}
	b := start(t, cfgB)
	sa, sb := a.Status(), b.Status()
	if sa.ClusterID == sb.ClusterID {
		t.Fatalf("both in cluster %s", sa.ClusterID)
	}
	waitStatus(t, b, "the refusal", func(Status) bool {
		return heard.contains("another cluster") && heard.contains(sa.ClusterID) && heard.contains(sb.ClusterID)
	})
	la, lb := newList(t, a, sampleID), newList(t, b, sampleID)
	la.propose <- []byte("a")
	lb.propose <- []byte("b")
	la.waitFor(1)
	lb.waitFor(2)
	for i, n := range []CopyCat{a, b} {
		now := n.Status()
		if before := []Status{sa, sb}[i]; now.ClusterID != before.ClusterID || len(now.Nodes) != 1 {
			t.Errorf("node %d: %+v became %+v", i, before, now)
		}
	}
	if got := la.all(); len(got) != 1 || got[0] != "a" {
		t.Errorf("lines of a: %q", got)
	}
	if got := lb.all(); len(got) != 2 || got[0] != "works" || got[1] != "b" {
		t.Errorf("lines of b: %q", got)
	}
}

// TestWipedNode has one of three nodes lose its directory and come back under
// its old address: as a new node, that works.
func TestWipedNode(t *testing.T) {
	t.Parallel()
	cfgs := []*Config{testConfig(t, "dc1"), testConfig(t, "dc2"), testConfig(t, "dc3")}
	cfgs[2].Hostname = ownHost()
	nodes := []CopyCat{start(t, cfgs[0]), nil, nil}
	var lists []*list
	for i := 1; i < 3; i++ {
		cfgs[i].PeersToContact = []string{nodes[0].Status().GossipAddress}
		nodes[i] = start(t, cfgs[i])
	}
	for _, n := range nodes {
		waitStatus(t, n, "three nodes alive", func(s Status) bool { return alive(s) == 3 })
		lists = append(lists, newList(t, n, sampleID))
	}
	for i, l := range lists {
		l.propose <- fmt.Appendf(nil, "from %d", i)
	}
	for _, l := range lists {
		l.waitFor(3)
	}
	waitStatus(t, nodes[0], "three voters", func(s Status) bool {
		st, ok := structure(s, sampleID)
		return ok && len(st.Voters) == 3
	})
	old := nodes[2].Status()
	nodes[2].Shutdown()
	<-lists[2].done
	if err := os.RemoveAll(cfgs[2].CopyCatDataDir); err != nil {
		t.Fatal(err)
	}
	cfgs[2].CopyCatPort, cfgs[2].GossipPort = portIn(t, old.CopyCatAddress), portIn(t, old.GossipAddress)
	nodes[2] = start(t, cfgs[2])
	now := nodes[2].Status()
	if now.NodeID == old.NodeID || now.ClusterID != old.ClusterID || now.GossipAddress != old.GossipAddress {
		t.Fatalf("it was %+v and is %+v", old, now)
	}
	lists[2] = newList(t, nodes[2], sampleID)
	lists[2].waitFor(3)
	lists[2].propose <- []byte("from the new one")
	for _, l := range lists {
		l.waitFor(4)
	}
	sameLists(t, lists...)
	for i, n := range nodes {
		waitStatus(t, n, fmt.Sprintf("three nodes alive at %d", i), func(s Status) bool { return alive(s) == 3 })
	}
	waitStatus(t, nodes[0], "a replica of the new node beside that of the old", func(s Status) bool {
		st, _ := structure(s, sampleID)
		return strings.Contains(fmt.Sprint(st.Voters, st.Learners), now.NodeID)
	})
}

func portIn(t testing.TB, address string) (port int) {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err == nil {
		_, err = fmt.Sscan(text, &port)
	}
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// TestSubscribeWhenTheDirectoryCatchesUp subscribes at a node that has not yet
// heard of the structure, in a cluster whose catalog is gone with its only
// voter: as soon as gossip names a holder, nothing waits for the catalog.
func TestSubscribeWhenTheDirectoryCatchesUp(t *testing.T) {
	t.Parallel()
	founder := start(t, testConfig(t, ""))
	other := start(t, testConfig(t, "", founder.Status().GossipAddress))
	cfg := testConfig(t, "", other.Status().GossipAddress)
	cfg.JoinTimeout = time.Hour // waiting for it would be noticed
	late := start(t, cfg)
	waitStatus(t, late, "three nodes alive", func(s Status) bool { return alive(s) == 3 })
	founder.Shutdown()
	other.Shutdown() // with two of three gone the catalog has no quorum, however far it had grown

	other = start(t, testConfig(t, "", late.Status().GossipAddress))
	waitStatus(t, other, "late is seen", func(s Status) bool { return alive(s) >= 2 })
	unknown, err := late.NewDataStructureID()
	if err != nil {
		t.Fatal(err)
	}
	subscribed := make(chan error, 1)
	go func() {
		_, _, _, _, err := late.SubscribeToDataStructure(unknown, func() ([]byte, error) { return nil, nil })
		subscribed <- err
	}()
	select {
	case err := <-subscribed:
		t.Fatalf("subscribed to what nobody knows: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	// What the directory says is a hint, so it need not be true here.
	other.(*node).gossip.Load().Publish([]gossip.Replica{{Group: id.Group{Structure: *unknown, Incarnation: id.Incarnation{Birth: 9}}, ID: 1, Role: roleLeader}})
	select {
	case err := <-subscribed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * time.Minute):
		t.Error("it still waits for the catalog")
	}
}
