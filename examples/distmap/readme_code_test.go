package main_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/copycat-replication/copycat"
)

// The README's code stands here a second time, where it is compiled and run.
// TestReadmeCode fails if a Go block of the README is not in this file.

// hashmap is this node's copy.
type hashmap struct {
	proposeCh chan<- []byte            // changes to propose
	commitCh  <-chan []byte            // all changes, everybody's, in their order
	errorCh   <-chan error             // what went wrong
	consume   copycat.SnapshotConsumer // to be called for each nil on commitCh

	mu   sync.RWMutex
	data map[string]string
}

// operation is one change; CopyCat does not look into its bytes.
type operation struct {
	Key, Value string
	Delete     bool
}

func subscribe(cc copycat.CopyCat) (*hashmap, error) {
	m := &hashmap{data: make(map[string]string)}
	var err error
	m.proposeCh, m.commitCh, m.errorCh, m.consume, err =
		cc.SubscribeToDataStructureWithStringID("01CFR5R4JJE9KNRAJFFEAQ2SAJ", m.snapshot)
	if err != nil {
		return nil, err
	}
	go m.serve()
	return m, nil
}

func (m *hashmap) put(key, value string) error {
	change, err := json.Marshal(operation{Key: key, Value: value})
	if err != nil {
		return err
	}
	m.proposeCh <- change // belongs to CopyCat now; blocks while too much is under way
	return nil
}

func (m *hashmap) get(key string) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.data[key]
}

func (m *hashmap) serve() {
	commits, errs := m.commitCh, m.errorCh
	for commits != nil || errs != nil {
		select {
		case change, ok := <-commits:
			switch {
			case !ok:
				commits = nil // the subscription has ended
			case change == nil:
				m.load()
			default:
				m.apply(change)
			}
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			report(err)
		}
	}
}

func (m *hashmap) apply(change []byte) {
	var op operation
	if err := json.Unmarshal(change, &op); err != nil {
		return // the same bytes arrive at every node, so all of them skip it
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if op.Delete {
		delete(m.data, op.Key)
	} else {
		m.data[op.Key] = op.Value
	}
}

func (m *hashmap) load() {
	snapshot, err := m.consume() // hold no lock here that the provider wants
	data := make(map[string]string)
	if err == nil && len(snapshot) > 0 {
		err = json.Unmarshal(snapshot, &data)
	}
	if err != nil {
		report(err) // this copy has missed something: see examples/distmap
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data = data
}

func (m *hashmap) snapshot() ([]byte, error) {
	return json.Marshal(m.data)
}

func report(err error) {
	var p *copycat.ProposalError
	switch {
	case !errors.As(err, &p):
		slog.Warn("warning", "error", err)
	case errors.Is(err, copycat.ErrOutcomeUnknown):
		slog.Error("nobody knows whether this was committed", "proposal", string(p.Proposal))
	default:
		slog.Error("never committed", "proposal", string(p.Proposal), "error", p.Err)
	}
}

func startNode(dir string, change func(*copycat.Config)) (copycat.CopyCat, error) {
	config := copycat.DefaultConfig()
	config.Hostname = "127.0.0.1" // the other nodes must reach this one by it
	config.CopyCatPort = 11983    // TCP: consensus and data
	config.GossipPort = 12983     // UDP and TCP: who is there
	config.CopyCatDataDir = "./copy-cat-db/"
	config.DataCenter = "berlin"
	config.PeersToContact = nil // no peers: this node starts a new cluster
	// config.PeersToContact = []string{"10.1.0.1:12983", "10.2.0.1:12983"}

	config.CopyCatDataDir = dir
	change(config)

	cc, err := copycat.NewCopyCat(config)
	if err != nil {
		return nil, err
	}

	return cc, nil
}

// TestReadmeCode runs the README's code on one node, and looks for its blocks
// in this file.
func TestReadmeCode(t *testing.T) {
	t.Parallel()
	cc, err := startNode(t.TempDir(), func(c *copycat.Config) {
		c.CopyCatPort, c.GossipPort, c.Profile = 0, 0, copycat.Local
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cc.Shutdown)
	m, err := subscribe(cc)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.put("cat", "copy"); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for m.get("cat") != "copy" {
		if time.Now().After(deadline) {
			t.Fatal("the change has not come back")
		}
		<-tick.C
	}
	close(m.proposeCh)
}

func TestReadmeBlocks(t *testing.T) {
	t.Parallel()
	code := flat(t, "readme_code_test.go")
	blocks := strings.Split(flat(t, "../../README.md"), "```go\n")[1:]
	if len(blocks) == 0 {
		t.Fatal("the README has no Go code")
	}
	for _, b := range blocks {
		b, _, closed := strings.Cut(b, "```")
		if !closed || !strings.Contains(code, b) {
			t.Errorf("this block of the README is not in readme_code_test.go as it stands:\n%s", b)
		}
	}
}

// flat reads a file without indentation.
func flat(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		b.WriteString(strings.TrimSpace(line) + "\n")
	}
	return b.String()
}
