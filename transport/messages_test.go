package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// onBoth runs a test over TCP, and over the in-memory network in virtual time.
func onBoth(t *testing.T, test func(t *testing.T, c *cluster)) {
	t.Parallel()
	t.Run("tcp", func(t *testing.T) {
		t.Parallel()
		test(t, tcpCluster(t))
	})
	t.Run("mem", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { test(t, memCluster(t, NewMemNetwork())) })
	})
}

func numbered(group byte, n uint64, size int) Message {
	m := Message{Group: groupID(group), From: 10, To: 20, Payload: make([]byte, max(size, 8))}
	binary.LittleEndian.PutUint64(m.Payload, n)
	return m
}

func number(m Message) uint64 { return binary.LittleEndian.Uint64(m.Payload) }

// Everything arrives as it was sent, each group and lane in order, whatever
// the sizes, compressed or not.
func TestMessagesArriveInOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, c *cluster) {
		ha, hb := newRecorder(), newRecorder()
		ca := c.config(1, ha)
		ca.PieceBytes = 4 << 10
		ca.Compress = func(n id.Node) bool { return n == nodeID(3) }
		a := c.start(ca)
		c.start(c.config(2, hb))
		hc := newRecorder()
		c.start(c.config(3, hc))
		const each = 2000
		for i := range uint64(each) {
			for _, to := range []byte{2, 3} {
				m := numbered(byte(1+i%3), i, []int{8, 200, 5000, 30000}[i/7%4])
				m.Urgent = i%5 == 0 && len(m.Payload) < 4<<10
				m.Group.Incarnation.Recovery = uint32(i % 3)
				if err := a.Send(nodeID(to), m); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, h := range []*recorder{hb, hc} {
			last := map[string]uint64{}
			seen := map[uint64]bool{}
			for range each {
				m := await(t, h.messages, "message")
				n := number(m)
				lane := fmt.Sprint(m.Urgent, m.Group)
				if before, ok := last[lane]; ok && before >= n {
					t.Fatalf("lane %s: %d after %d", lane, n, before)
				}
				last[lane] = n
				want := numbered(byte(1+n%3), n, []int{8, 200, 5000, 30000}[n/7%4])
				want.Group.Incarnation.Recovery = uint32(n % 3)
				if seen[n] || !bytes.Equal(m.Payload, want.Payload) || m.Group != want.Group || m.From != 10 || m.To != 20 {
					t.Fatalf("message %d came twice or changed", n)
				}
				seen[n] = true
			}
		}
		if e := await(t, hb.events, "PeerUp"); e.node != nodeID(1) || e.incarnation != 1 || e.err != nil {
			t.Fatal(e)
		}
		if e := await(t, ha.events, "PeerUp"); e.incarnation != 1 || e.err != nil {
			t.Fatal(e)
		}
		stats := a.Stats()
		if stats.MessagesSent != 2*each || stats.MessagesDropped != 0 || stats.Dials != 4 {
			t.Fatalf("%+v", stats)
		}
	})
}

func TestSendRefuses(t *testing.T) {
	onBoth(t, func(t *testing.T, c *cluster) {
		cfg := c.config(1, newRecorder())
		cfg.MaxFrame = 1 << 20
		a := c.start(cfg)
		c.locate(nodeID(2), c.host(nodeID(2))+":1")
		for _, test := range []struct {
			to   byte
			size int
			want error
		}{{3, 1, ErrUnknownNode}, {1, 1, ErrUnknownNode}, {2, 1<<20 + 1, ErrTooLarge}} {
			if err := a.Send(nodeID(test.to), numbered(1, 0, test.size)); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		}
		closeTransport(t, a)
		if err := a.Send(nodeID(2), Message{}); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

// A peer that takes nothing fills its queue, and then Send says so at once.
// When the connection is given up, PeerDown reports what was lost.
func TestQueueFullAndStall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		ha, hb := newRecorder(), newRecorder()
		cfg := c.config(1, ha)
		cfg.QueueBytes, cfg.MaxFrame = 8<<20, 4<<20
		a := c.start(cfg)
		c.start(c.config(2, hb))
		if err := a.Send(nodeID(2), numbered(1, 0, 8)); err != nil {
			t.Fatal(err)
		}
		await(t, hb.messages, "message")
		await(t, ha.events, "PeerUp")
		urgent := numbered(1, 0, 8)
		urgent.Urgent = true
		if err := a.Send(nodeID(2), urgent); err != nil {
			t.Fatal(err)
		}
		await(t, hb.messages, "message")
		network.Partition(hostOf(nodeID(1)), hostOf(nodeID(2)))
		start := time.Now()
		sent := 0
		for {
			err := a.Send(nodeID(2), numbered(1, 0, 64<<10))
			if errors.Is(err, ErrQueueFull) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if sent++; sent > 200 {
				t.Fatal("the queue has no end")
			}
		}
		if err := a.Send(nodeID(2), urgent); err != nil {
			t.Fatalf("an urgent message beside a full queue: %v", err)
		}
		if time.Since(start) != 0 {
			t.Fatal("Send has blocked")
		}
		for range 2 { // one for each of the two streams
			e := await(t, ha.events, "PeerDown")
			if !errors.Is(e.err, ErrPeerDown) || !errors.Is(e.err, ErrStalled) {
				t.Fatal(e)
			}
		}
		if d := time.Since(start); d > a.cfg.StallTimeout+a.cfg.PingInterval {
			t.Fatalf("found out after %s", d)
		}
		if s := a.Stats(); s.MessagesSent+s.MessagesDropped != uint64(sent)+3 || s.QueueFull != 1 {
			t.Fatalf("%d messages were accepted: %+v", sent+3, s)
		}
		// Attempts go on, one for each Send that backoff lets through, and
		// each failure is reported.
		if err := a.Send(nodeID(2), numbered(1, 1, 8)); err != nil {
			t.Fatal(err)
		}
		await(t, ha.events, "PeerDown")
		if err := a.Send(nodeID(2), numbered(1, 2, 8)); !errors.Is(err, ErrPeerDown) {
			t.Fatal(err)
		}
		network.Heal(hostOf(nodeID(1)), hostOf(nodeID(2)))
		time.Sleep(a.cfg.BackoffMax)
		for len(hb.messages) > 0 {
			<-hb.messages
		}
		if err := a.Send(nodeID(2), numbered(1, 3, 8)); err != nil {
			t.Fatal(err)
		}
		if m := await(t, hb.messages, "message"); number(m) != 3 {
			t.Fatalf("%d: what was dropped came after all", number(m))
		}
		if e := await(t, ha.events, "PeerUp"); e.err != nil {
			t.Fatal(e)
		}
	})
}

// A restarted peer is found again, and announced with its new incarnation,
// before its messages and exactly once, however many connections it makes.
func TestReconnectAfterRestart(t *testing.T) {
	onBoth(t, func(t *testing.T, c *cluster) {
		ha, hb := newRecorder(), newRecorder()
		a := c.start(c.config(1, ha))
		cfg := c.config(2, hb)
		b := c.start(cfg)
		if err := a.Send(nodeID(2), numbered(1, 1, 8)); err != nil {
			t.Fatal(err)
		}
		await(t, hb.messages, "message")
		if e := await(t, ha.events, "up"); e.incarnation != 1 || e.err != nil {
			t.Fatal(e)
		}
		closeTransport(t, b)
		if e := await(t, ha.events, "down"); !errors.Is(e.err, ErrPeerDown) {
			t.Fatal(e)
		}
		hb = newRecorder()
		cfg.Handler, cfg.Incarnation = hb, 2
		b = c.start(cfg)
		// The first who speaks is the restarted one: that ends the backoff.
		if err := b.Send(nodeID(1), numbered(1, 2, 8)); err != nil {
			t.Fatal(err)
		}
		if m := await(t, ha.messages, "message"); number(m) != 2 || len(ha.events) == 0 {
			t.Fatal("the message came before PeerUp")
		}
		if e := await(t, ha.events, "up"); e.incarnation != 2 || e.err != nil {
			t.Fatal(e)
		}
		if err := a.Send(nodeID(2), numbered(1, 3, 8)); err != nil {
			t.Fatal(err)
		}
		if m := await(t, hb.messages, "message"); number(m) != 3 {
			t.Fatal(m)
		}
		if _, err := a.Call(t.Context(), nodeID(2), 1, nil); err != nil {
			t.Fatal(err)
		}
		if len(ha.events) != 0 {
			t.Fatalf("another report: %s", <-ha.events)
		}
	})
}

// Connections that nobody uses are closed on both sides, without a report, and
// come back on demand.
func TestIdleCostsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		ha, hb := newRecorder(), newRecorder()
		a, b := c.start(c.config(1, ha)), c.start(c.config(2, hb))
		open := func() int {
			network.mu.Lock()
			defer network.mu.Unlock()
			return len(network.conns)
		}
		for range 3 {
			if err := a.Send(nodeID(2), numbered(1, 1, 8)); err != nil {
				t.Fatal(err)
			}
			await(t, hb.messages, "message")
			if _, err := b.Call(t.Context(), nodeID(1), 1, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(a.cfg.IdleTimeout / 2)
			if open() != 4 {
				t.Fatalf("%d ends of connections, want 4", open())
			}
			time.Sleep(a.cfg.IdleTimeout)
			if open() != 0 {
				t.Fatalf("%d ends of connections are left", open())
			}
		}
		if len(ha.events) != 1 || len(hb.events) != 1 {
			t.Fatalf("%d and %d reports, want one PeerUp each", len(ha.events), len(hb.events))
		}
	})
}

// Urgent messages and other groups are not kept waiting by a large message.
func TestLargeBesideUrgent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		network.SetLatency(hostOf(nodeID(1)), hostOf(nodeID(2)), 10*time.Millisecond)
		c := memCluster(t, network)
		h := newRecorder()
		a := c.start(c.config(1, newRecorder()))
		c.start(c.config(2, h))
		urgent, other := numbered(1, 1, 8), numbered(2, 2, 8)
		urgent.Urgent = true
		if err := a.Send(nodeID(2), urgent); err != nil { // its connection stands
			t.Fatal(err)
		}
		await(t, h.messages, "message")
		// 32 MiB at a window of 1 MiB each 10 ms: the large one takes 320 ms.
		start := time.Now()
		if err := a.Send(nodeID(2), numbered(1, 0, 32<<20)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		for _, m := range []Message{numbered(1, 3, 8), other, urgent} {
			if err := a.Send(nodeID(2), m); err != nil {
				t.Fatal(err)
			}
		}
		var order []uint64
		for range 4 {
			m := await(t, h.messages, "message")
			order = append(order, number(m))
			if d := time.Since(start); len(order) == 2 && d > 150*time.Millisecond {
				t.Errorf("the small ones took %s", d)
			}
		}
		slices.Sort(order[:2]) // on connections of their own: which comes first is open
		if !slices.Equal(order, []uint64{1, 2, 0, 3}) {
			t.Fatalf("order %v", order)
		}
		if rtt, ok := a.RTT(nodeID(2)); !ok || rtt < 20*time.Millisecond || rtt > 40*time.Millisecond {
			t.Fatalf("RTT %s, %v", rtt, ok)
		}
	})
}

// The order holds from one connection to the next: the second of a node is not
// read while the handler is still at work on the first.
func TestSecondConnectionWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		c := memCluster(t, network)
		h := newRecorder()
		free := make(chan struct{})
		var handled []uint64
		var began atomic.Int64
		h.onBatch = func(_ id.Node, batch []Message) {
			began.Add(1)
			<-free
			handled = append(handled, number(batch[0]))
		}
		a := c.start(c.config(1, h))
		for i := range uint64(2) {
			conn := rawNode(t, a, network.Host("host9"), purposeMessages, 1)
			m := numbered(1, i, 8)
			if _, err := conn.Write(appendFrame(nil, frameMessages, appendMessageHead(nil, &m, nil), m.Payload)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if began.Load() != 1 {
			t.Fatal("both are handled at a time")
		}
		free <- struct{}{}
		synctest.Wait()
		if !slices.Equal(handled, []uint64{0}) {
			t.Fatalf("handled %v", handled)
		}
		free <- struct{}{}
		synctest.Wait()
		if !slices.Equal(handled, []uint64{0, 1}) {
			t.Fatalf("handled %v", handled)
		}
		if len(h.events) != 1 {
			t.Fatalf("%d reports: a replaced connection is not a broken one", len(h.events))
		}
	})
}

// A connection that breaks under load loses messages, reports it, and is
// replaced; nothing comes twice or out of order.
func TestResetUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := NewMemNetwork()
		network.SetLatency(hostOf(nodeID(1)), hostOf(nodeID(2)), time.Millisecond)
		c := memCluster(t, network)
		ha, hb := newRecorder(), newRecorder()
		a := c.start(c.config(1, ha))
		c.start(c.config(2, hb))
		downs := 0
		for i := range uint64(5000) {
			if i%500 == 499 {
				network.Reset(hostOf(nodeID(1)), hostOf(nodeID(2)))
			}
			if err := a.Send(nodeID(2), numbered(1, i, 300)); err != nil && !errors.Is(err, ErrPeerDown) {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(a.cfg.BackoffMax)
		if err := a.Send(nodeID(2), numbered(1, 5000, 8)); err != nil {
			t.Fatal(err)
		}
		for last := -1; last < 5000; {
			n := int(number(await(t, hb.messages, "message")))
			if n <= last {
				t.Fatalf("%d after %d", n, last)
			}
			last = n
		}
		for len(ha.events) > 0 {
			if e := <-ha.events; e.err != nil {
				downs++
			}
		}
		if downs == 0 {
			t.Fatal("no PeerDown")
		}
	})
}
