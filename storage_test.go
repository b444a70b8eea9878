package copycat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/wal"
)

// lines collects what a node logs.
type lines struct {
	attrs []slog.Attr
	to    *record
}

type record struct {
	mu   sync.Mutex
	text []string
}

func (l lines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (l lines) Handle(_ context.Context, r slog.Record) error {
	text := r.Level.String() + " " + r.Message
	add := func(a slog.Attr) bool { text += fmt.Sprintf(" %s=%v", a.Key, a.Value); return true }
	for _, a := range l.attrs {
		add(a)
	}
	r.Attrs(add)
	l.to.mu.Lock()
	defer l.to.mu.Unlock()
	l.to.text = append(l.to.text, text)
	return nil
}

func (l lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	return lines{append(slices.Clip(l.attrs), attrs...), l.to}
}

func (l lines) WithGroup(string) slog.Handler { return l }

// find returns the lines that hold all of the words.
func (r *record) find(words ...string) (found []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range r.text {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			found = append(found, line)
		}
	}
	return found
}

// memNode is a node on a disk in memory.
type memNode struct {
	CopyCat
	cfg  *Config
	disk *vfs.Mem
	cold *wal.MemCold
	log  *record
	l    *list
}

func (m *memNode) start(t testing.TB) {
	t.Helper()
	cc, err := newNode(m.cfg, environment{fs: m.disk, cold: m.cold})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cc.Shutdown)
	m.CopyCat = cc
}

// memNodes starts three nodes that have three voters and a subscription each.
func memNodes(t testing.TB) []*memNode {
	t.Helper()
	var nodes []*memNode
	for i := range 3 {
		m := &memNode{cfg: testConfig(t, fmt.Sprint("dc", i)), disk: vfs.NewMem(), cold: wal.NewMemCold(), log: &record{}}
		m.cfg.CopyCatDataDir = "data"
		m.cfg.Logger = slog.New(lines{to: m.log})
		if i > 0 {
			m.cfg.PeersToContact = []string{nodes[0].Status().GossipAddress}
		}
		m.start(t)
		nodes = append(nodes, m)
	}
	for _, m := range nodes {
		waitStatus(t, m, "three nodes alive", func(s Status) bool { return alive(s) == 3 })
	}
	for _, m := range nodes {
		m.l = newList(t, m, sampleID)
	}
	for i, m := range nodes {
		m.l.propose <- fmt.Append(nil, "first ", i)
	}
	for _, m := range nodes {
		m.l.waitFor(3)
		waitStatus(t, m, "three voters", func(s Status) bool {
			st, ok := structure(s, sampleID)
			return ok && len(st.Voters) == 3 && st.Leader != ""
		})
	}
	return nodes
}

// split tells the node that leads sampleID from the others.
func split(t testing.TB, nodes []*memNode) (leader *memNode, others []*memNode) {
	t.Helper()
	for leader == nil {
		waitStatus(t, nodes[0], "a leader", func(s Status) bool {
			st, ok := structure(s, sampleID)
			i := slices.IndexFunc(nodes, func(m *memNode) bool { return m.Status().NodeID == st.Leader })
			if ok = ok && i >= 0; ok {
				leader = nodes[i]
			}
			return ok
		})
	}
	for _, m := range nodes {
		if m != leader {
			others = append(others, m)
		}
	}
	return leader, others
}

// TestFailedFsync fails the syncs of one node's log, the leader's and then a
// follower's: its user hears so, in Status, on the error channel and in the
// log, each with its place; it acknowledges nothing more; the others take over.
// The machine then loses what was not synced, and after a restart on a disk
// that works all is well.
func TestFailedFsync(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"leader", "follower"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			nodes := memNodes(t)
			victim, others := split(t, nodes)
			if which == "follower" {
				victim, others = others[0], []*memNode{victim, others[1]}
			}
			id := victim.Status().NodeID
			var failed atomic.Bool
			victim.disk.SetFault(func(op vfs.Op, name string, _, _ int64) error {
				if op == vfs.OpSync && strings.Contains(name, "wal/") {
					failed.Store(true)
					return syscall.EIO
				}
				return nil
			})
			for i, m := range others {
				for k := range 20 {
					m.l.propose <- fmt.Append(nil, "meanwhile ", i, k)
				}
			}
			for _, m := range others {
				m.l.waitFor(43)
			}
			waitStatus(t, victim, "storage has failed", func(s Status) bool { return s.Storage != nil })
			delivered := victim.l.all()
			for k := range 5 {
				victim.l.propose <- fmt.Append(nil, "lost ", k)
			}
			saysSo(t, victim)
			heldBack(t, victim, 5)
			if got := victim.l.all(); !slices.Equal(got, delivered) {
				t.Errorf("it delivered %q after its disk had failed", got[len(delivered):])
			}
			if !failed.Load() {
				t.Fatal("no sync failed")
			}

			// Power goes, what was not synced is lost, and the disk is mended.
			after := victim.disk.CrashClone(vfs.LoseAll)
			victim.Shutdown()
			<-victim.l.done
			victim.disk = after
			victim.start(t)
			if st := victim.Status(); st.NodeID != id || st.Storage != nil {
				t.Errorf("node %s is %s now, storage %v", id, st.NodeID, st.Storage)
			}
			fates := victim.l.errors()
			victim.l = newList(t, victim, sampleID)
			victim.l.propose <- []byte("back")
			for _, m := range nodes {
				m.l.wait("the change after the restart", func(lines []string) bool { return slices.Contains(lines, "back") })
			}
			sameLists(t, nodes[0].l, nodes[1].l, nodes[2].l)
			for _, err := range fates {
				var p *ProposalError
				if errors.As(err, &p) && errors.Is(err, ErrNeverCommitted) && slices.Contains(nodes[0].l.all(), string(p.Proposal)) {
					t.Errorf("%q was reported as never committed, and is", p.Proposal)
				}
			}
		})
	}
}

// saysSo wants a failed disk to be told everywhere, with its place.
func saysSo(t testing.TB, m *memNode) {
	t.Helper()
	st := m.Status()
	if !errors.Is(st.Storage, ErrStorageFailed) || !errors.Is(st.Storage, syscall.EIO) {
		t.Errorf("Status().Storage is %v", st.Storage)
	}
	if !strings.Contains(fmt.Sprint(st.Storage), "wal/") && !strings.Contains(fmt.Sprint(st.Storage), ".seg") {
		t.Errorf("Status().Storage names no file: %v", st.Storage)
	}
	err := m.l.waitError(ErrReplicaStopped)
	if !errors.Is(err, ErrStorageFailed) || !strings.Contains(err.Error(), sampleID) {
		t.Errorf("on the error channel: %v", err)
	}
	t.Logf("Status().Storage: %v", st.Storage)
	t.Logf("error channel: %v", err)
	waitStatus(t, m, "a stopped replica", func(s Status) bool {
		g, ok := structure(s, sampleID)
		return ok && g.Role == "stopped" && errors.Is(g.LastError, ErrStorageFailed)
	})
	found := m.log.find("ERROR", "self="+st.NodeID, "group="+sampleID)
	if len(found) == 0 {
		t.Errorf("no line of the log names node and group: %q", m.log.find("ERROR"))
	}
	t.Logf("log: %q", found)
}

// heldBack wants so many proposals to come back with what is known of them.
func heldBack(t testing.TB, m *memNode, n int) {
	t.Helper()
	m.l.wait("all proposals have a fate", func([]string) bool {
		fates := 0
		for _, err := range m.l.errors() {
			var p *ProposalError
			if errors.As(err, &p) && (errors.Is(err, ErrNeverCommitted) || errors.Is(err, ErrOutcomeUnknown)) && strings.HasPrefix(string(p.Proposal), "lost ") {
				fates++
			}
		}
		return fates == n
	})
}
