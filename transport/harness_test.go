package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/copycat-replication/copycat/id"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// randomness is a seeded source for one node of a test.
func randomness(seed uint64) io.Reader {
	var b [32]byte
	b[0] = byte(seed)
	return rand.NewChaCha8(b)
}

func nodeID(n byte) id.Node       { return id.Node{15: n} }
func clusterID(n byte) id.Cluster { return id.Cluster{15: n} }
func groupID(n byte) id.Group {
	return id.Group{Structure: id.Structure{15: n}, Incarnation: id.Incarnation{Birth: uint64(n)}}
}

// event is a PeerUp (err nil) or a PeerDown.
type event struct {
	node        id.Node
	incarnation uint64
	err         error
}

func (e event) String() string {
	if e.err != nil {
		return fmt.Sprintf("down %s: %v", e.node, e.err)
	}
	return fmt.Sprintf("up %s %d", e.node, e.incarnation)
}

// recorder is a Handler that keeps what it gets. Its channels are large enough
// for each test; the fields are set before the transport starts.
type recorder struct {
	messages chan Message
	events   chan event
	onCall   func(ctx context.Context, from id.Node, method uint16, request []byte) ([]byte, error)
	onStream func(ctx context.Context, from id.Node, request []byte, w io.Writer) error
	onBatch  func(from id.Node, batch []Message)
}

func newRecorder() *recorder {
	return &recorder{messages: make(chan Message, 1<<16), events: make(chan event, 1<<10)}
}

func (r *recorder) HandleMessages(from id.Node, batch []Message) {
	if r.onBatch != nil {
		r.onBatch(from, batch)
		return
	}
	for _, m := range batch {
		r.messages <- m
	}
}

func (r *recorder) HandleCall(ctx context.Context, from id.Node, method uint16, request []byte) ([]byte, error) {
	if r.onCall == nil {
		return request, nil
	}
	return r.onCall(ctx, from, method, request)
}

func (r *recorder) HandleStream(ctx context.Context, from id.Node, request []byte, w io.Writer) error {
	if r.onStream == nil {
		_, err := w.Write(request)
		return err
	}
	return r.onStream(ctx, from, request, w)
}

func (r *recorder) PeerUp(node id.Node, incarnation uint64) {
	r.events <- event{node: node, incarnation: incarnation}
}
func (r *recorder) PeerDown(node id.Node, err error) { r.events <- event{node: node, err: err} }

// cluster makes transports that find each other.
type cluster struct {
	t       testing.TB
	network func(node id.Node) Network // nil: TCP
	host    func(node id.Node) string
	mu      sync.Mutex
	at      map[id.Node]string
}

func tcpCluster(t testing.TB) *cluster {
	return &cluster{t: t, at: make(map[id.Node]string),
		network: func(id.Node) Network { return TCP{} }, host: func(id.Node) string { return "127.0.0.1" }}
}

func hostOf(n id.Node) string { return fmt.Sprintf("host%d", n[15]) }

func memCluster(t testing.TB, network *MemNetwork) *cluster {
	return &cluster{t: t, at: make(map[id.Node]string),
		network: func(n id.Node) Network { return network.Host(hostOf(n)) }, host: hostOf}
}

func (c *cluster) resolve(n id.Node) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.at[n]
	return a, ok
}

func (c *cluster) locate(n id.Node, address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at[n] = address
}

func (c *cluster) config(n byte, h Handler) Config {
	node := nodeID(n)
	return Config{
		Node: node, Incarnation: 1, Cluster: func() id.Cluster { return clusterID(1) },
		BindAddress: c.host(node), Network: c.network(node), Resolve: c.resolve, Handler: h,
		Random: randomness(uint64(n)), Logger: slog.New(slog.NewTextHandler(testLog{c.t}, nil)),
	}
}

// testLog shows a transport's log with the test that it belongs to.
type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

// start makes a transport of a config; it is closed with the test.
func (c *cluster) start(cfg Config) *Transport {
	c.t.Helper()
	tr, err := New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { closeTransport(c.t, tr) })
	c.locate(cfg.Node, tr.Addr().String())
	return tr
}

func closeTransport(t testing.TB, tr *Transport) {
	if err := tr.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("close: %v", err)
	}
}

// await receives, or fails the test.
func await[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(2 * time.Minute)
	defer timer.Stop()
	select {
	case v := <-ch:
		return v
	case <-timer.C:
		t.Fatalf("waited in vain for %s", what)
	}
	var none T
	return none
}

func TestSmoke(t *testing.T) {
	t.Parallel()
	c := tcpCluster(t)
	ha, hb := newRecorder(), newRecorder()
	a := c.start(c.config(1, ha))
	c.start(c.config(2, hb))
	for i := range 1000 {
		if err := a.Send(nodeID(2), Message{Group: groupID(1), From: 1, To: 2, Payload: []byte(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1000 {
		if m := await(t, hb.messages, "message"); string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, m.Payload)
		}
	}
	got, err := a.Call(context.Background(), nodeID(2), 7, []byte("hello"))
	if err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
	r, err := a.Fetch(context.Background(), nodeID(2), bytes.Repeat([]byte("x"), 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	if err != nil || len(all) != 1<<20 {
		t.Fatalf("%d bytes, %v", len(all), err)
	}
}

// decodeMessages appends all messages of a frame's body to batch.
func decodeMessages(body []byte, batch []Message) ([]Message, error) {
	return newMessageDecoder(body).next(batch, len(body))
}
