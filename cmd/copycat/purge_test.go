package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/copycat-replication/copycat"
	"github.com/copycat-replication/copycat/internal/operator"
)

// purgeLisbon brings lisbon back, whose groups were rebuilt from another
// replica, and removes what it keeps of their old life.
func purgeLisbon(tr *transcript, cfg *copycat.Config, s *copycat.ID, node string) {
	t, dir := tr.t, cfg.CopyCatDataDir
	t.Helper()
	tr.remark("lisbon has been found, and is started: it learns that its replicas are superseded, and gets new ones")
	lisbon := start(t, cfg)
	renewed := func(st copycat.Status) bool {
		n := 0
		for _, g := range st.Structures {
			if (g.Catalog || g.ID == *s) && g.Incarnation.Recovery > 0 && g.Leader != "" && g.Applied > 0 {
				n++
			}
		}
		return n == 2
	}
	await(t, lisbon, "new replicas of both groups", renewed)
	if code, printed := tr.say("", "purge", "-structure", "all", "-yes", dir); code != 1 || !strings.Contains(printed, "lock") {
		t.Errorf("purged under a running node: %d\n%s", code, printed)
	}
	lisbon.Shutdown()
	tr.remark("lisbon has been stopped")
	if printed := lookInto(t, dir); strings.Count(printed, ", superseded, ") != 2 {
		t.Errorf("inspect:\n%s", printed)
	}
	before := files(t, dir)
	if code, _ := tr.say("yes\n", "purge", "-structure", "all", dir); code != 1 {
		t.Error("purged without the ID")
	}
	if after := files(t, dir); after != before {
		t.Errorf("nothing was confirmed, and the directory has changed:\n%s\n%s", before, after)
	}
	if code, printed := tr.say(node+"\n", "purge", "-structure", "all", "-reason", "lisbon's disk was looked through", dir); code != 0 {
		t.Fatalf("purge: %d\n%s", code, printed)
	}
	tr.remark("what is in use is not removed, and there is nothing else any more")
	if code, _ := tr.say("", "purge", "-structure", s.String(), "-yes", "-force", dir); code != 1 {
		t.Error("a replica that is in use was purged, or is said to be")
	}
	if printed := lookInto(t, dir); strings.Contains(printed, "superseded") {
		t.Errorf("inspect:\n%s", printed)
	}
	checkPurges(t, dir, 2, "lisbon's disk was looked through")
	lisbon = start(t, cfg)
	await(t, lisbon, "both groups again", renewed)
	lisbon.Shutdown()
}

// lookInto is what copycat inspect prints. It is not part of the transcript: which
// replicas a node gets first differs from run to run.
func lookInto(t *testing.T, dir string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"inspect", dir}, strings.NewReader(""), &out, &errs); code != 0 {
		t.Errorf("inspect: %d\n%s", code, errs.String())
	}
	return out.String()
}

// checkPurges reads the record of what was removed.
func checkPurges(t *testing.T, dir string, n int, reason string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "purges.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	for _, line := range lines {
		var r operator.PurgeRecord
		if err := json.Unmarshal(line, &r); err != nil || r.Reason != reason || r.What.Group.Structure == "" || r.NodeID == "" || r.At.IsZero() {
			t.Errorf("record %s: %v", line, err)
		}
	}
	if len(lines) != n {
		t.Errorf("%d records, want %d", len(lines), n)
	}
}

// TestPurgeSetAside has a node's log damaged, so that its replica of a structure
// is set aside. That is not removed as long as nothing else of it is there;
// once the node has got another replica it is, and the node goes on.
func TestPurgeSetAside(t *testing.T) {
	t.Parallel()
	cfgs := []*copycat.Config{config(t, "berlin"), config(t, "lisbon"), config(t, "paris")}
	nodes, s := three(t, cfgs)
	sub := subscribe(t, nodes[0], s)
	for i := range 20 {
		sub.propose <- fmt.Appendf(nil, "line-%d", i)
		sub.await(t, fmt.Sprintf("line-%d", i)) // one batch each
	}
	settled(t, nodes)
	dir, node := cfgs[1].CopyCatDataDir, nodes[1].Status().NodeID
	nodes[1].Shutdown()
	flip(t, dir, "line-7")
	purge := func(want int, say string, args ...string) {
		t.Helper()
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"purge"}, append(args, dir)...), strings.NewReader(node+"\n"), &out, &errs)
		if all := out.String() + errs.String(); code != want || !strings.Contains(all, say) {
			t.Fatalf("%v: %d\n%s", args, code, all)
		}
	}
	purge(0, "left alone: not removed: it is set aside, and no other replica", "-structure", "all")
	purge(0, "nothing to remove", "-structure", s.String())
	purge(1, "holds no replica of catalog", "-structure", "catalog")
	purge(1, "which structure?")
	purge(1, "", "-structure", "x")
	nodes[1] = start(t, cfgs[1])
	again := func(aside int) func(copycat.Status) bool {
		return func(st copycat.Status) bool {
			for _, g := range st.Structures {
				if g.ID == *s && g.Commits == 20 && len(g.Voters) == 3 && len(g.Learners) == 0 && g.Leader != "" {
					return len(st.SetAside) == aside
				}
			}
			return false
		}
	}
	await(t, nodes[1], "another replica, which votes", again(1))
	nodes[1].Shutdown()
	purge(0, "in use beside it: replica ", "-structure", s.String(), "-reason", "looked at")
	checkPurges(t, dir, 1, "looked at")
	nodes[1] = start(t, cfgs[1])
	await(t, nodes[1], "nothing that is set aside", again(0))
}

// flip flips a bit of a directory's log, where it holds a text.
func flip(t *testing.T, dir, text string) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "wal", "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range segments {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(data, []byte(text)); at >= 0 {
			data[at] ^= 1
			if err := os.WriteFile(name, data, 0o640); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no segment of %s holds %q", dir, text)
}
