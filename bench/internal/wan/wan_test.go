package wan

import (
	"bytes"
	"errors"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if code, is := helper(); is {
		os.Exit(code)
	}
	// The relay is not to wait for the goroutines that make traffic here.
	runtime.GOMAXPROCS(max(8, runtime.GOMAXPROCS(0)))
	goleak.VerifyTestMain(m)
}

// open makes a network, or skips the test where that cannot be.
func open(t *testing.T, cfg Config) *Net {
	t.Helper()
	n, err := New(cfg)
	if errors.Is(err, ErrUnsupported) {
		t.Skipf("not on this machine: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func two(mode Mode, link Link) Config {
	return Config{
		Centers: []Center{{"east", 1}, {"west", 1}}, Mode: mode, Seed: 1,
		Link: func(from, to int) Link {
			if from == to {
				return Link{}
			}
			return link
		},
	}
}

func report(t *testing.T, n *Net, probes int) *Report {
	t.Helper()
	r, err := n.Report(probes)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", &b)
	return r
}

// TestRoundTrips: three data centers have the round trips that were asked for.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	matrix := [][]time.Duration{{0, 30 * ms, 70 * ms}, {30 * ms, 0, 100 * ms}, {70 * ms, 100 * ms, 0}}
	n := open(t, Config{Centers: []Center{{"a", 2}, {"b", 1}, {"c", 1}}, Link: RoundTrips(matrix), Mode: Namespaces})
	r := report(t, n, 5)
	if r.Congestion != "cubic" || r.MTU != 1500 || r.Strange+r.Refused+r.Overrun > 0 || r.Failure != "" {
		t.Errorf("report %+v", r)
	}
	for _, l := range r.Links {
		if l.Answers > 0 && l.Measured < l.Wanted {
			t.Errorf("%s: %d answers, %v, want %v", l.Names, l.Answers, l.Measured, l.Wanted)
		}
		near(t, n, l, l.Wanted)
	}
	n.Set(0, 1, Link{Delay: 50 * ms})
	for _, l := range report(t, n, 3).Links {
		if l.From == 0 && l.To == 1 {
			if l.Wanted != 65*ms {
				t.Errorf("changed to 65 ms, it says %v", l.Wanted)
			}
			near(t, n, l, 65*ms)
		}
	}
}

// near wants a round trip over a link that takes what it should, or a little
// more, and none that takes less. A busy machine may delay any packet, so the
// first one that was not held up decides.
func near(t *testing.T, n *Net, l LinkReport, want time.Duration) {
	t.Helper()
	best := time.Duration(math.MaxInt64)
	for deadline := time.Now().Add(2 * time.Minute); best > want+10*time.Millisecond; {
		if time.Now().After(deadline) {
			t.Errorf("%s: the best round trip takes %v, want %v", l.Names, best, want)
			return
		}
		took, err := n.backend.probe(n.nth(l.From, 0), n.nth(l.To, boolInt(l.From == l.To)), 1, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range took {
			best = min(best, d)
		}
	}
	if best < want {
		t.Errorf("%s: %v, want %v", l.Names, best, want)
	}
}

// TestPartition: what is cut does not get through, what is healed does.
func TestPartition(t *testing.T) {
	t.Parallel()
	n := open(t, Config{Centers: []Center{{"a", 1}, {"b", 1}, {"c", 1}}, Mode: Namespaces})
	within := func(wait time.Duration) func(from, to int) bool {
		return func(from, to int) bool {
			t.Helper()
			took, err := n.backend.probe(from, to, 1, wait)
			if err != nil {
				t.Fatal(err)
			}
			return len(took) == 1
		}
	}
	reach, reachAtLast := within(300*time.Millisecond), within(2*time.Minute) // nothing is lost here: it only may be late
	n.Partition([]int{0}, []int{1})
	if reach(0, 1) || reach(1, 0) || !reachAtLast(0, 2) || !reachAtLast(2, 1) {
		t.Error("a and b are cut from each other, and not from c")
	}
	n.Hosts()[2].Isolate(true)
	if reach(0, 2) || reach(2, 1) {
		t.Error("c is cut off")
	}
	n.Heal()
	if !reachAtLast(0, 1) || !reachAtLast(2, 1) || n.Link(0, 1).Cut {
		t.Error("all is healed")
	}
	if r := report(t, n, 0); r.Links[0].Traffic.CutOff == 0 {
		t.Error("nothing was counted as cut off")
	}
}

// TestLoss: packets are lost as often as they should be.
func TestLoss(t *testing.T) {
	t.Parallel()
	n := open(t, two(Namespaces, Link{}))
	n.Set(0, 1, Link{Loss: 0.2})
	const pings = 150
	took, err := n.backend.probe(0, 1, pings, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	r := report(t, n, 0)
	if lost := r.Links[0].Traffic.Lost; lost < pings/10 || lost > pings*3/10 || len(took) > pings-int(lost) {
		t.Errorf("of %d packets %d were lost, and %d answered", pings, lost, len(took))
	}
}

// TestProcesses: what is started on a host is in its namespace, cannot reach
// anything outside, and ends with the network.
func TestProcesses(t *testing.T) {
	t.Parallel()
	n := open(t, two(Namespaces, Link{}))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(h *Host) string {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), helperVariable+"=namespace")
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := h.Start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	mine, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	a, b := ask(n.Hosts()[0]), ask(n.Hosts()[1])
	for i, text := range []string{a, b} {
		if strings.Contains(text, mine) || !strings.Contains(text, "lo tun0 ") || !strings.Contains(text, "outside: network is unreachable") {
			t.Errorf("host %d, with this process in %s: %s", i, mine, text)
		}
	}
	if a == b {
		t.Errorf("both hosts are in one namespace: %s", a)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), helperVariable+"=wait")
	if err := n.Hosts()[0].Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
	if err := n.Hosts()[0].Start(exec.Command(self)); !errors.Is(err, ErrClosed) {
		t.Errorf("start after the end: %v", err)
	}
}

// TestNothingIsLeft: a process that is killed takes its hosts' processes, and
// with them the namespaces, along.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Namespaces, Proxies} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			_ = open(t, two(mode, Link{})) // or skip
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), helperVariable+"=network "+string(mode))
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line := make([]byte, 64)
			k, err := out.Read(line)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(line[:k])))
			if err != nil || !alive(pid) {
				t.Fatalf("process %d of the network: %v", pid, err)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // it was killed
			for deadline := time.Now().Add(2 * time.Minute); alive(pid); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("process %d outlives the network", pid)
				}
			}
		})
	}
}

// alive tells whether a process runs, and is more than a name in a table.
func alive(pid int) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// TestProxies: without namespaces the round trips are there too.
func TestProxies(t *testing.T) {
	t.Parallel()
	n := open(t, two(Proxies, Link{Delay: 10 * time.Millisecond}))
	r := report(t, n, 5)
	for _, l := range r.Links {
		if l.Wanted != 20*time.Millisecond || l.Answers > 0 && l.Measured < l.Wanted {
			t.Errorf("%s: %d answers, %v, want %v", l.Names, l.Answers, l.Measured, l.Wanted)
		}
		near(t, n, l, l.Wanted)
	}
	n.Partition([]int{0}, []int{1})
	if took, err := n.backend.probe(0, 1, 1, 100*time.Millisecond); err != nil || len(took) > 0 {
		t.Errorf("through a cut: %v, %v", took, err)
	}
	n.Heal()
	n.Hosts()[1].Isolate(true)
	if took, err := n.backend.probe(0, 1, 1, 100*time.Millisecond); err != nil || len(took) > 0 {
		t.Errorf("to an isolated host: %v, %v", took, err)
	}
	n.Heal()
	if took, err := n.backend.probe(0, 1, 1, 2*time.Minute); err != nil || len(took) != 1 {
		t.Errorf("healed: %v, %v", took, err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{
		{},
		{Centers: []Center{{"a", 0}}},
		{Centers: []Center{{"a", maxHosts + 1}}},
		{Centers: []Center{{"a", 1}}, Mode: "magic"},
	} {
		if n, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
			_ = n.Close()
		}
	}
	if _, err := New(Config{Centers: []Center{{"a", 1}}, Congestion: "none such", Mode: Namespaces}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("congestion control that does not exist: %v", err)
	}
}
