package main

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/copycat-replication/copycat"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// transcript is a session at the prompt, as docs/operations.md shows it.
type transcript struct {
	t     *testing.T
	out   bytes.Buffer
	names map[string]string // what was normalized
}

// say runs a command and notes it with what it printed.
func (tr *transcript) say(input string, args ...string) (code int, printed string) {
	tr.t.Helper()
	var out, errs bytes.Buffer
	code = run(tr.t.Context(), args, strings.NewReader(input), &out, &errs)
	fmt.Fprintf(&tr.out, "$ copycat %s\n", strings.Join(args, " "))
	if input != "" {
		fmt.Fprintf(&tr.out, "(typed: %s)\n", strings.TrimSpace(input))
	}
	tr.out.Write(out.Bytes())
	tr.out.Write(errs.Bytes())
	fmt.Fprintf(&tr.out, "(exit %d)\n\n", code)
	return code, out.String() + errs.String()
}

func (tr *transcript) remark(format string, args ...any) {
	fmt.Fprintf(&tr.out, "# "+format+"\n\n", args...)
}

var (
	ulid    = regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{26}\b`)
	address = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	moment  = regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z?`)
	life    = regexp.MustCompile(`@\d+(\.\d+-[0-9a-f]{4})?|\b\d+\.\d+-[0-9a-f]{4}\b`)
	segment = regexp.MustCompile(`[0-9a-f]{16}\.seg`)
	hash    = regexp.MustCompile(`\b[0-9a-f]{16}…`)
	number  = regexp.MustCompile(`\b\d+\b`)
	spaces  = regexp.MustCompile(`(\S)  +`)
	role    = regexp.MustCompile(`(leader|follower|learner), replica`)
	leads   = regexp.MustCompile(`leader ID in (berlin|lisbon|paris)`)
	peers   = regexp.MustCompile(`peers +ADDRESS( ADDRESS)*`)
	lag     = regexp.MustCompile(`lag (-|N)`)
	waits   = regexp.MustCompile(`(?m)^  waits: .*\n`) // the leader's alone
	sums    = regexp.MustCompile(`(?m)^((?:berlin|lisbon|paris)  N  N  N  N)  (-|N)  (-|N)$`)
)

// normalized takes out what differs from run to run: names, numbers, who leads.
func (tr *transcript) normalized() string {
	s := tr.out.String()
	for from, to := range tr.names {
		s = strings.ReplaceAll(s, from, to)
	}
	seen := map[string]string{}
	s = ulid.ReplaceAllStringFunc(s, func(u string) string {
		if seen[u] == "" {
			seen[u] = "ID"
		}
		return seen[u]
	})
	for _, r := range []struct {
		re *regexp.Regexp
		to string
	}{
		{address, "ADDRESS"}, {moment, "TIME"}, {segment, "SEGMENT"}, {hash, "HASH…"},
		{life, "LIFE"}, {number, "N"}, {spaces, "$1  "}, {role, "ROLE, replica"}, {lag, "lag N"}, {leads, "leader ID in PLACE"}, {sums, "$1  N  N"}, {waits, ""}, {peers, "peers  ADDRESS"},
	} {
		s = r.re.ReplaceAllString(s, r.to)
	}
	s = strings.ReplaceAll(s, "voter, leads", "voter")
	var lines []string
	for line := range strings.Lines(s) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return strings.Join(lines, "\n") + "\n"
}

// compare holds the transcript against the one in testdata.
func (tr *transcript) compare(name string) {
	tr.t.Helper()
	file := filepath.Join("testdata", name)
	got := tr.normalized()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			tr.t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		tr.t.Fatal(err)
	}
	if got != string(want) {
		tr.t.Errorf("%s differs; got\n%s\nraw\n%s", name, got, tr.out.String())
	}
}

// subscriber counts what it is handed.
type subscriber struct {
	propose chan<- []byte
	got     chan string
	failed  chan error
}

func subscribe(t *testing.T, cc copycat.CopyCat, id *copycat.ID) *subscriber {
	t.Helper()
	var state bytes.Buffer
	propose, commits, errs, consume, err := cc.SubscribeToDataStructure(id, func() ([]byte, error) { return bytes.Clone(state.Bytes()), nil })
	if err != nil {
		t.Fatal(err)
	}
	s := &subscriber{propose: propose, got: make(chan string, 1000), failed: make(chan error, 1000)}
	go func() {
		for commits != nil || errs != nil {
			select {
			case c, ok := <-commits:
				switch {
				case !ok:
					commits = nil
				case c == nil:
					data, err := consume()
					if err != nil {
						continue // the end
					}
					state.Reset()
					state.Write(data)
					for _, line := range strings.Fields(string(data)) {
						s.got <- line
					}
				default:
					fmt.Fprintln(&state, string(c))
					s.got <- string(c)
				}
			case err, ok := <-errs:
				if !ok {
					errs = nil
					continue
				}
				s.failed <- err
			}
		}
		close(s.got)
	}()
	return s
}

func (s *subscriber) await(t *testing.T, want string) {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for {
		select {
		case got := <-s.got:
			if got == want {
				return
			}
		case <-timeout:
			t.Fatalf("no %q within two minutes", want)
		}
	}
}

func config(t *testing.T, dc string, peers ...string) *copycat.Config {
	return &copycat.Config{
		Hostname: "127.0.0.1", CopyCatDataDir: t.TempDir(), DataCenter: dc, Profile: copycat.Local,
		JoinTimeout: time.Minute, PeersToContact: peers,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)).With("on", dc),
	}
}

func start(t *testing.T, cfg *copycat.Config) copycat.CopyCat {
	t.Helper()
	cc, err := copycat.NewCopyCat(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cc.Shutdown)
	return cc
}

// await waits until a node's status satisfies cond.
func await(t *testing.T, cc copycat.CopyCat, what string, cond func(copycat.Status) bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for tick := time.NewTicker(20 * time.Millisecond); !cond(cc.Status()); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within two minutes: %s; status %+v", what, cc.Status())
		}
	}
}

// calm reports whether a node's replicas all have n voters, and leaders.
func calm(n, structures int) func(copycat.Status) bool {
	return func(s copycat.Status) bool {
		for _, g := range s.Structures {
			if len(g.Voters) != n || len(g.Learners) > 0 || g.Leader == "" || g.Lag > 0 {
				return false
			}
		}
		return len(s.Structures) == structures
	}
}

// three starts three nodes, and has them hold a structure.
func three(t *testing.T, cfgs []*copycat.Config) ([]copycat.CopyCat, *copycat.ID) {
	t.Helper()
	nodes := []copycat.CopyCat{start(t, cfgs[0])}
	for _, c := range cfgs[1:] {
		c.PeersToContact = []string{nodes[0].Status().GossipAddress}
		nodes = append(nodes, start(t, c))
	}
	await(t, nodes[0], "a catalog of three voters", calm(3, 1))
	id, err := nodes[0].AllocateNewDataStructure(copycat.WithDataCenterReplicas(3))
	if err != nil {
		t.Fatal(err)
	}
	return nodes, id
}

// settled waits until three nodes hold, and have applied, all of the catalog and a structure.
func settled(t *testing.T, nodes []copycat.CopyCat) {
	t.Helper()
	for _, n := range nodes {
		await(t, n, "three voters of both groups", calm(3, 2))
	}
}

// TestTranscript loses two of three nodes for good, with a structure that has
// voters on all three, looks at what is left, and brings structure and catalog
// back from the third. One of the lost comes back after all: what it had is
// superseded, and is removed from it.
func TestTranscript(t *testing.T) {
	t.Parallel()
	cfgs := []*copycat.Config{config(t, "berlin"), config(t, "lisbon"), config(t, "paris")}
	nodes, id := three(t, cfgs)
	sub := subscribe(t, nodes[0], id)
	for i := range 20 {
		sub.propose <- fmt.Appendf(nil, "line-%d", i)
	}
	sub.await(t, "line-19")
	settled(t, nodes)
	tr := &transcript{t: t, names: map[string]string{
		cfgs[0].CopyCatDataDir: "/var/lib/berlin", cfgs[1].CopyCatDataDir: "/var/lib/lisbon", cfgs[2].CopyCatDataDir: "/var/lib/paris",
	}}
	dirs := []string{cfgs[0].CopyCatDataDir, cfgs[1].CopyCatDataDir, cfgs[2].CopyCatDataDir}
	tr.say("", "status", dirs[0])
	tr.remark("a directory in use can be looked at too")
	if code, printed := tr.say("", "inspect", dirs[1]); code != 0 || strings.Contains(printed, "DAMAGE") {
		t.Errorf("inspect of a node that runs: %d\n%s", code, printed)
	}
	tr.remark("a node that runs cannot be rebuilt from")
	if code, _ := tr.say("", "recover", "-structure", id.String(), "-yes", dirs[0]); code != 1 {
		t.Error("rebuilt under a running node")
	}
	ids := []string{nodes[0].Status().NodeID, nodes[1].Status().NodeID}
	for _, n := range nodes {
		n.Shutdown()
	}
	tr.remark("all nodes have been stopped")
	if code, _ := tr.say("", "status", dirs[0]); code != 1 {
		t.Error("status of a node that does not run")
	}
	before := files(t, dirs[0])
	if code, printed := tr.say("", "inspect", "-verify", dirs[0]); code != 0 || strings.Contains(printed, "DAMAGE") {
		t.Errorf("inspect: %d\n%s", code, printed)
	}
	if after := files(t, dirs[0]); after != before {
		t.Errorf("inspect changed the directory:\n%s\n%s", before, after)
	}
	tr.remark("two of three are a majority: nothing has to be rebuilt")
	if code, _ := tr.say("", "recover", "-structure", id.String(), dirs[0], dirs[1]); code != 1 {
		t.Error("rebuilt although there is a majority")
	}
	tr.remark("lisbon and paris have burned down")
	if code, _ := tr.say("yes\n", "recover", "-structure", id.String(), dirs[0]); code != 1 {
		t.Error("rebuilt without the ID")
	}
	if code, printed := tr.say(ids[0]+"\n", "recover", "-structure", "all", "-reason", "lisbon and paris have burned down", dirs[0]); code != 0 {
		t.Fatalf("recover: %d\n%s", code, printed)
	}
	if _, err := os.Stat(filepath.Join(dirs[0], "recoveries.jsonl")); err != nil {
		t.Error(err)
	}
	tr.remark("berlin is started")
	cfgs[0].PeersToContact = nil
	nodes[0] = start(t, cfgs[0])
	await(t, nodes[0], "two groups of one voter that leads", calm(1, 2))
	sub = subscribe(t, nodes[0], id)
	sub.await(t, "line-19")
	sub.propose <- []byte("after")
	sub.await(t, "after")
	if _, err := nodes[0].AllocateNewDataStructure(); err != nil {
		t.Errorf("a birth by the rebuilt catalog: %v", err)
	}
	tr.say("", "inspect", dirs[0])
	purgeLisbon(tr, cfgs[1], id, ids[1])
	t.Logf("as it was printed:\n%s", tr.out.String()) // for docs/operations.md; shown with -v
	tr.compare("transcript.txt")
}

// TestDamaged inspects a directory whose log has a flipped bit, whose identity
// cannot be read, and one that does not exist: it tells what it can.
func TestDamaged(t *testing.T) {
	t.Parallel()
	cfg := config(t, "here")
	cc := start(t, cfg)
	id, err := cc.AllocateNewDataStructure()
	if err != nil {
		t.Fatal(err)
	}
	sub := subscribe(t, cc, id)
	for i := range 20 {
		sub.propose <- fmt.Appendf(nil, "line-%d", i)
		sub.await(t, fmt.Sprintf("line-%d", i)) // one batch each
	}
	cc.Shutdown()
	dir := cfg.CopyCatDataDir
	segments, err := filepath.Glob(filepath.Join(dir, "wal", "*.seg"))
	if err != nil || len(segments) == 0 {
		t.Fatal(segments, err)
	}
	data, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, []byte("line-7"))
	if at < 0 {
		t.Fatal("the log does not hold what was proposed")
	}
	data[at] ^= 1
	if err := os.WriteFile(segments[0], data, 0o640); err != nil {
		t.Fatal(err)
	}
	tr := &transcript{t: t, names: map[string]string{dir: "DIR"}}
	code, printed := tr.say("", "inspect", dir)
	if code != 3 || !strings.Contains(printed, "DAMAGE   wal: damaged data in "+filepath.Base(segments[0])) || !strings.Contains(printed, "SET ASIDE") {
		t.Errorf("a flipped bit: %d\n%s", code, printed)
	}
	if !strings.Contains(printed, "catalog@1 ") {
		t.Errorf("the catalog is not shown:\n%s", printed)
	}
	if code, printed := tr.say("", "recover", "-structure", id.String(), "-yes", "-force", dir); code != 1 || !strings.Contains(printed, "set aside") {
		t.Errorf("rebuilt from a replica that cannot be proven whole: %d\n%s", code, printed)
	}
	if err := os.WriteFile(filepath.Join(dir, "node.json"), []byte("{"), 0o640); err != nil {
		t.Fatal(err)
	}
	if code, printed := tr.say("", "inspect", "-json", dir); code != 3 || !strings.Contains(printed, "node.json: ") {
		t.Errorf("without an identity: %d\n%s", code, printed)
	}
	for _, args := range [][]string{{"inspect", filepath.Join(dir, "none")}, {"status", dir}, {"recover", dir}, {"recover", "-structure", "x", dir}, {"recover", "-structure", "all", dir}} {
		if code, printed := tr.say("", args...); code != 1 {
			t.Errorf("%v: %d\n%s", args, code, printed)
		}
	}
	for _, args := range [][]string{{}, {"mend"}, {"inspect"}, {"status", "a", "b"}, {"inspect", "-x"}} {
		if code, printed := tr.say("", args...); code != 2 {
			t.Errorf("%v: %d\n%s", args, code, printed)
		}
	}
}

// files lists a directory with sizes and times.
func files(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintf(&b, "%s %d %s\n", path, info.Size(), info.ModTime())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
