package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a node in a process of its own.
type process struct {
	name  string
	dir   string
	peers string

	cmd    *exec.Cmd
	stdin  io.Closer
	url    string
	gossip string
}

// start starts the process, and waits until it says where it listens.
func (p *process) start(t *testing.T) {
	t.Helper()
	ready := &readyLine{got: make(chan map[string]string, 1)}
	p.cmd = exec.Command(os.Args[0], "-node", p.name, "-dc", "dc-"+p.name, "-dir", p.dir, "-peers", p.peers, //nolint:gosec // ourselves
		"-profile", "local", "-timeout", "30s", "-snapshot-entries", "200", "-log", "warn")
	p.cmd.Env = append(os.Environ(), childVariable+"=1")
	p.cmd.Stdout, p.cmd.Stderr = ready, t.Output()
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case said := <-ready.got:
		p.url, p.gossip = said["http"], said["gossip"]
	case <-time.After(2 * time.Minute):
		p.kill(t)
		t.Fatalf("process %s is not ready", p.name)
	}
}

// kill ends the process with SIGKILL, by its own ID.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if p.cmd == nil {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Errorf("kill %s: %v", p.name, err)
	}
	_ = p.cmd.Wait() // "signal: killed"
	_ = p.stdin.Close()
	p.cmd = nil
}

// terminate ends the process with SIGTERM, and wants it to end in order.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("terminate %s: %v", p.name, err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("process %s ended with %v", p.name, err)
	}
	_ = p.stdin.Close()
	p.cmd = nil
}

// readyLine takes a process's output and finds the line that it is ready.
type readyLine struct {
	buf bytes.Buffer
	got chan map[string]string
}

func (r *readyLine) Write(b []byte) (int, error) {
	r.buf.Write(b)
	for {
		line, rest, whole := bytes.Cut(r.buf.Bytes(), []byte("\n"))
		if !whole {
			return len(b), nil
		}
		if text, ok := strings.CutPrefix(string(line), "ready "); ok {
			said := make(map[string]string)
			for _, field := range strings.Fields(text) {
				key, value, _ := strings.Cut(field, "=")
				said[key] = value
			}
			r.got <- said
		}
		r.buf = *bytes.NewBuffer(bytes.Clone(rest))
	}
}

var client = &http.Client{
	Timeout:   2 * time.Minute, // whoever does not answer for so long is taken for gone
	Transport: &http.Transport{DisableKeepAlives: true},
}

// answer is an answer other than 200.
type answer struct {
	code int
	text string
}

func (a *answer) Error() string { return fmt.Sprintf("%d: %s", a.code, a.text) }

// call asks a process; an answer other than 200 is an *answer.
func call(method, url, body string) ([]byte, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body)) //nolint:noctx // the client has a time-out
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = &answer{resp.StatusCode, string(bytes.TrimSpace(data))}
	}
	return data, err
}

// eventually polls until ok says yes.
func eventually(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		done, why := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s: %s", what, why)
		}
		<-tick.C
	}
}

func (p *process) keys() (map[string]string, error) {
	data, err := call(http.MethodGet, p.url+"/keys", "")
	if err != nil {
		return nil, err
	}
	var all map[string]string
	return all, json.Unmarshal(data, &all)
}

// voters returns how many voters the map's group has, as this process knows it.
func (p *process) voters() (int, error) {
	data, err := call(http.MethodGet, p.url+"/status", "")
	if err != nil {
		return 0, err
	}
	var s status
	if err := json.Unmarshal(data, &s); err != nil {
		return 0, err
	}
	for _, d := range s.Structures {
		if d.ID == mapID && d.Leader != "" {
			return len(d.Voters), nil
		}
	}
	return 0, nil
}

// writers put keys through processes until they are stopped, and note which
// puts were answered with 200.
type writers struct {
	stop chan struct{}
	all  sync.WaitGroup

	mu    sync.Mutex
	acked map[string]string
	count map[string]int // by process
}

// through starts a writer on a process. Every put has a key of its own, so that
// one whose outcome is unknown spoils no other. It ends when the process does.
func (w *writers) through(t *testing.T, name, url, round string) {
	w.all.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-w.stop:
				return
			default:
			}
			key, value := fmt.Sprintf("%s.%s.%d", round, name, n), fmt.Sprintf("value %d of %s", n, name)
			if _, err := call(http.MethodPut, url+"/keys/"+key, value); err != nil {
				t.Logf("put of %s: %v", key, err)
				var answered *answer
				if errors.As(err, &answered) {
					continue
				}
				return // the process is gone
			}
			w.mu.Lock()
			w.acked[key] = value
			w.count[name]++
			w.mu.Unlock()
		}
	})
}

// more waits until each named writer has had n more puts answered with 200.
func (w *writers) more(t *testing.T, n int, names ...string) {
	t.Helper()
	w.mu.Lock()
	before := maps.Clone(w.count)
	w.mu.Unlock()
	eventually(t, fmt.Sprintf("%d more puts through %v", n, names), func() (bool, string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, name := range names {
			if w.count[name] < before[name]+n {
				return false, fmt.Sprintf("%s has %d, had %d", name, w.count[name], before[name])
			}
		}
		return true, ""
	})
}

// halt stops all writers.
func (w *writers) halt() {
	close(w.stop)
	w.all.Wait()
	w.stop = make(chan struct{})
}

// same waits until all processes show one and the same map, and that it has
// all that was acknowledged.
func same(t *testing.T, processes []*process, acked map[string]string) {
	t.Helper()
	eventually(t, "equal maps on all nodes, with every acknowledged put", func() (bool, string) {
		var first map[string]string
		for i, p := range processes {
			have, err := p.keys()
			if err != nil {
				return false, err.Error()
			}
			for key, value := range acked {
				if got, ok := have[key]; !ok || got != value {
					return false, fmt.Sprintf("%s lacks %s, which was acknowledged", p.name, key)
				}
			}
			if i == 0 {
				first = have
			} else if !maps.Equal(have, first) {
				return false, fmt.Sprintf("%s has %d keys, %s has %d", p.name, len(have), processes[0].name, len(first))
			}
		}
		return true, ""
	})
}

// TestThreeProcesses kills each of three processes in turn, the one that
// started the cluster first. Writes go on meanwhile, and whatever was answered
// with 200 is on all nodes in the end.
func TestThreeProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	processes := make([]*process, 3)
	for i, name := range []string{"a", "b", "c"} {
		p := &process{name: name, dir: t.TempDir()}
		if i > 0 {
			p.peers = processes[0].gossip
		}
		t.Cleanup(func() { p.kill(t) })
		p.start(t)
		processes[i] = p
	}
	eventually(t, "three voters", func() (bool, string) {
		for _, p := range processes {
			if n, err := p.voters(); err != nil || n != 3 {
				return false, fmt.Sprintf("%s sees %d voters, %v", p.name, n, err)
			}
		}
		return true, ""
	})

	w := &writers{stop: make(chan struct{}), acked: make(map[string]string), count: make(map[string]int)}
	for i, victim := range processes {
		round := "without-" + victim.name
		others := []*process{processes[(i+1)%3], processes[(i+2)%3]}
		for _, p := range processes {
			w.through(t, p.name, p.url, round)
		}
		w.more(t, 10, "a", "b", "c")
		victim.kill(t)
		w.more(t, 20, others[0].name, others[1].name)
		w.halt()

		victim.start(t) // from its directory; the first one without peers
		for _, p := range processes {
			w.through(t, p.name, p.url, round+"-and-back")
		}
		w.more(t, 10, "a", "b", "c")
		w.halt()
		same(t, processes, w.acked)
	}

	for key := range w.acked {
		if _, err := call(http.MethodDelete, processes[1].url+"/keys/"+key, ""); err != nil {
			t.Fatal(err)
		}
		delete(w.acked, key)
		break
	}
	same(t, processes, w.acked)
	t.Logf("%d puts acknowledged", len(w.acked))
	for _, p := range processes {
		p.terminate(t)
	}
}
