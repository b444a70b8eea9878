// Package nodestatus is the protocol between a running node and the command
// copycat: JSON over HTTP, on a socket in the node's data directory that only
// its owner may open.
//
// GET /status answers with a [Status], GET /holdings?structure=ID with [Holdings]; POST /forget?structure=ID&birth=N
// gives up a structure of which nothing is left. The socket is DIR/status.sock; where that
// path is too long for a socket's name (some 100 bytes, by the operating
// system), it is in the directory for temporary files, and DIR/status.addr
// holds its path. Fields are only added; Version grows when one changes its meaning.
package nodestatus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Version is that of the answer.
const Version = 1

const (
	socketName  = "status.sock"
	addressName = "status.addr"
	// maxSocketPath is what fits into a socket's name on all systems.
	maxSocketPath = 100
	// callTimeout is a little less than a connection may take: an answer is a
	// commit of the catalog, which may have to elect a leader first.
	callTimeout = 20 * time.Second
)

// ErrNotRunning says that no node serves a data directory.
var ErrNotRunning = errors.New("no node runs on this data directory")

// Status is what a node knows of itself, of the others, and of its replicas.
type Status struct {
	Version     int         `json:"version"`
	NodeID      string      `json:"node_id"`
	ClusterID   string      `json:"cluster_id"`
	Incarnation uint64      `json:"incarnation"`
	Address     string      `json:"address"`
	Gossip      string      `json:"gossip_address"`
	DataDir     string      `json:"data_dir"`
	DataCenter  string      `json:"data_center"`
	Rack        string      `json:"rack"`
	Storage     string      `json:"storage_error,omitempty"`
	Leaving     bool        `json:"leaving,omitempty"`
	LeaveWaits  string      `json:"leave_waits,omitempty"`
	Nodes       []Node      `json:"nodes"`
	Structures  []Structure `json:"structures"`
	SetAside    []Kept      `json:"set_aside,omitempty"`  // replicas whose log is damaged
	Superseded  []Kept      `json:"superseded,omitempty"` // replicas of groups that were rebuilt elsewhere
}

// Kept is a replica that is on the node's disk and not used.
type Kept struct {
	ID          string `json:"id"` // empty: what is left does not tell
	Incarnation string `json:"incarnation,omitempty"`
	Replica     uint64 `json:"replica,omitempty"`
	Why         string `json:"why,omitempty"`
}

// Record is what the catalog says of a structure: all zero if it knows of none.
type Record struct {
	Birth    uint64 `json:"birth"`
	Recovery uint32 `json:"recovery,omitempty"`
	Deleted  uint64 `json:"deleted,omitempty"` // index of the deletion
	Follows  uint64 `json:"follows,omitempty"` // birth of the deleted incarnation before
}

// Holdings is what the nodes say of their replicas of a structure.
type Holdings struct {
	Record Record    `json:"record"`
	Nodes  []Holding `json:"nodes"`
}

// Holding is the answer of one node.
type Holding struct {
	NodeID string `json:"node_id"`
	Life   string `json:"life,omitempty"`  // of the replica that it uses, or that has stopped; empty: it has none
	Error  string `json:"error,omitempty"` // it did not answer
}

// Node is one node as gossip sees it.
type Node struct {
	NodeID     string    `json:"node_id"`
	Address    string    `json:"address"`
	Gossip     string    `json:"gossip_address"`
	DataCenter string    `json:"data_center"`
	Rack       string    `json:"rack"`
	Alive      bool      `json:"alive"`
	Leaving    bool      `json:"leaving,omitempty"`
	Since      time.Time `json:"since"` // when alive changed last
}

// Structure is the node's replica of one data structure.
type Structure struct {
	ID               string   `json:"id"`
	Incarnation      string   `json:"incarnation"`
	Catalog          bool     `json:"catalog,omitempty"`
	Replica          uint64   `json:"replica"`
	Role             string   `json:"role"`
	Interactive      bool     `json:"interactive"`
	Leader           string   `json:"leader,omitempty"`
	LeaderDataCenter string   `json:"leader_data_center,omitempty"`
	Term             uint64   `json:"term"`
	Commit           uint64   `json:"commit"`
	Applied          uint64   `json:"applied"`
	Lag              uint64   `json:"lag"`
	Commits          uint64   `json:"commits"`
	Snapshot         uint64   `json:"snapshot"`
	Sessions         int      `json:"sessions"`
	QuorumLost       bool     `json:"quorum_lost,omitempty"`
	Deleted          bool     `json:"deleted,omitempty"`
	Members          []Member `json:"members"`
	LastError        string   `json:"last_error,omitempty"`
	Quiet            bool     `json:"quiet,omitempty"`
	Wished           int      `json:"wished_voters,omitempty"`
	Waits            string   `json:"waits,omitempty"` // at the leader: why the replicas are not where they should be
}

// Member is one replica of a structure's group.
type Member struct {
	Replica    uint64  `json:"replica"`
	NodeID     string  `json:"node_id"`
	DataCenter string  `json:"data_center,omitempty"`
	Voter      bool    `json:"voter"`
	Leader     bool    `json:"leader,omitempty"`
	Alive      bool    `json:"alive"`
	Lag        *uint64 `json:"lag,omitempty"` // entries behind the leader's commit; absent: only the leader knows
	// Of a member of which the leader does not hear: for how many seconds it has not,
	// after how many it is given up (absent: it is not to be, or is, which lost says),
	// and what comes of it then, for people.
	Missing    float64 `json:"missing_seconds,omitempty"`
	ReplacedIn float64 `json:"replaced_in_seconds,omitempty"`
	Lost       bool    `json:"lost,omitempty"`
	Fate       string  `json:"fate,omitempty"`
}

// Server answers on the socket of a data directory.
type Server struct {
	http   *http.Server
	served chan struct{}
	extra  string // DIR/status.addr, if it was written
}

// Answers are what a node answers with. All may be called at the same time; those
// with a context may take callTimeout.
type Answers struct {
	Status   func() Status
	Holdings func(ctx context.Context, structure string) (Holdings, error)
	Forget   func(ctx context.Context, structure string, birth uint64) error
}

// Serve opens the socket of a data directory. The caller holds the directory's
// lock: what an earlier process left is removed. name makes the socket's name
// where the directory's path is too long. log takes what net/http complains of.
func Serve(dir, name string, log *slog.Logger, answers Answers) (*Server, error) {
	path, extra, err := place(dir, name)
	if err != nil {
		return nil, err
	}
	for _, old := range []string{path, filepath.Join(dir, addressName)} {
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("remove what an earlier process left: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if extra != "" {
		if err := os.WriteFile(extra, []byte(path+"\n"), 0o600); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// An error here is that of a client that has gone.
		_ = json.NewEncoder(w).Encode(answers.Status())
	})
	serve := func(pattern string, answer func(context.Context, url.Values) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			ctx, cancel := context.WithTimeout(req.Context(), callTimeout)
			defer cancel()
			body, err := answer(ctx, req.URL.Query())
			if err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(body)
		})
	}
	serve("GET /holdings", func(ctx context.Context, q url.Values) (any, error) { return answers.Holdings(ctx, q.Get("structure")) })
	serve("POST /forget", func(ctx context.Context, q url.Values) (any, error) {
		birth, err := strconv.ParseUint(q.Get("birth"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("birth: %w", err)
		}
		return struct{}{}, answers.Forget(ctx, q.Get("structure"), birth)
	})
	s := &Server{
		http: &http.Server{
			Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 1 << 14,
			ErrorLog: slog.NewLogLogger(log.With("socket", path).Handler(), slog.LevelWarn),
		},
		served: make(chan struct{}), extra: extra,
	}
	s.http.SetKeepAlivesEnabled(false)
	go func() {
		defer close(s.served)
		_ = s.http.Serve(l) // ends with Close
	}()
	return s, nil
}

// place says where the socket of a directory is, and where its path has to be
// written down, if it is elsewhere.
func place(dir, name string) (path, extra string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", "", err
	}
	if path = filepath.Join(abs, socketName); len(path) <= maxSocketPath {
		return path, "", nil
	}
	return filepath.Join(os.TempDir(), "copycat-"+name+".sock"), filepath.Join(abs, addressName), nil
}

// Close ends the server, waits for what it is answering, and removes the socket.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // an answer takes milliseconds
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	<-s.served
	if s.extra != "" {
		err = errors.Join(err, os.Remove(s.extra))
	}
	return err
}

// Ask asks the node that runs on a data directory. ErrNotRunning says that there is none.
func Ask(ctx context.Context, dir string) (Status, error) {
	var s Status
	if err := call(ctx, http.MethodGet, dir, "/status", &s); err != nil {
		return Status{}, err
	}
	if s.Version > Version {
		return Status{}, fmt.Errorf("node on %s: its answer is of version %d, this command knows %d", dir, s.Version, Version)
	}
	return s, nil
}

// AskHoldings asks the node that runs on a data directory what all nodes say of
// their replicas of a structure, and what the catalog says of it, as of now.
// ErrNotRunning says that there is no node.
func AskHoldings(ctx context.Context, dir, structure string) (Holdings, error) {
	var h Holdings
	err := call(ctx, http.MethodGet, dir, "/holdings?structure="+url.QueryEscape(structure), &h)
	return h, err
}

// Forget has the node that runs on a data directory give up a structure that was
// born at birth, and of which no replica is left.
func Forget(ctx context.Context, dir, structure string, birth uint64) error {
	return call(ctx, http.MethodPost, dir, fmt.Sprintf("/forget?structure=%s&birth=%d", url.QueryEscape(structure), birth), &struct{}{})
}

// call asks for one thing.
func call(ctx context.Context, method, dir, what string, answer any) error {
	path, err := find(dir)
	if err != nil {
		return err
	}
	var d net.Dialer
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", path)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+what, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) { // its process was killed
		return fmt.Errorf("%w: %s: %w", ErrNotRunning, dir, err)
	}
	if err != nil {
		return fmt.Errorf("the node on %s does not answer: %w", dir, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("node on %s: %w", dir, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("node on %s: %s: %s", dir, resp.Status, strings.TrimSpace(string(body)))
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("node on %s: %w", dir, err)
	}
	return nil
}

func find(dir string) (string, error) {
	written, err := os.ReadFile(filepath.Join(dir, addressName))
	if err == nil {
		return strings.TrimSpace(string(written)), nil
	}
	path := filepath.Join(dir, socketName)
	if _, err := os.Stat(path); err != nil {
		if _, err := os.Stat(dir); err != nil {
			return "", fmt.Errorf("%w: %w", ErrNotRunning, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "node.json")); err != nil {
			return "", fmt.Errorf("%w: %s is no data directory, it has no node.json", ErrNotRunning, dir)
		}
		return "", fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	if len(path) > maxSocketPath { // dialing has the same limit
		abs, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		wd, err := os.Getwd()
		if err != nil {
			return "", err
		}
		if rel, err := filepath.Rel(wd, abs); err == nil && len(rel) < len(path) {
			return rel, nil
		}
	}
	return path, nil
}
