package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/copycat-replication/copycat"
)

// maxValue bounds the body of a PUT: below what CopyCat takes as one proposal.
const maxValue = 4 << 20

// api is the HTTP interface of one node.
type api struct {
	node    string
	cc      copycat.CopyCat
	m       *Map
	timeout time.Duration // of a PUT or DELETE
	log     *slog.Logger
}

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /keys", a.all)
	mux.HandleFunc("GET /keys/{key}", a.get)
	mux.HandleFunc("PUT /keys/{key}", a.put)
	mux.HandleFunc("DELETE /keys/{key}", a.delete)
	mux.HandleFunc("GET /status", a.status)
	return mux
}

func (a *api) all(w http.ResponseWriter, _ *http.Request) {
	data, err := a.m.All()
	if err != nil {
		a.refuse(w, err)
		return
	}
	a.writeJSON(w, data)
}

// get answers from this node's copy: what was committed elsewhere a moment ago
// may not be in it yet.
func (a *api) get(w http.ResponseWriter, r *http.Request) {
	value, ok, err := a.m.Get(r.PathValue("key"))
	switch {
	case err != nil:
		a.refuse(w, err)
	case !ok:
		http.Error(w, "no such key on this node", http.StatusNotFound)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		a.write(w, []byte(value))
	}
}

func (a *api) put(w http.ResponseWriter, r *http.Request) {
	value, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxValue))
	if err != nil {
		var large *http.MaxBytesError
		code := http.StatusBadRequest
		if errors.As(err, &large) {
			code = http.StatusRequestEntityTooLarge
		}
		http.Error(w, "the change was not made: "+err.Error(), code)
		return
	}
	a.change(w, r, func(ctx context.Context) error {
		return a.m.Put(ctx, r.PathValue("key"), string(value))
	})
}

func (a *api) delete(w http.ResponseWriter, r *http.Request) {
	a.change(w, r, func(ctx context.Context) error {
		return a.m.Delete(ctx, r.PathValue("key"))
	})
}

// change answers 200 only after the change has come back committed.
func (a *api) change(w http.ResponseWriter, r *http.Request, change func(context.Context) error) {
	ctx, cancel := context.WithTimeout(r.Context(), a.timeout)
	defer cancel()
	if err := change(ctx); err != nil {
		a.refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// refuse says in words which kind of failure it was: a client must not take
// "unknown" for "no".
func (a *api) refuse(w http.ResponseWriter, err error) {
	text := err.Error()
	if errors.Is(err, copycat.ErrOutcomeUnknown) {
		text = fmt.Sprintf("the outcome is unknown: the change may have been made, or may be made yet (waited %s): %v", a.timeout, err)
	}
	http.Error(w, text, http.StatusServiceUnavailable)
}

// status is copycat.Status with texts in the place of IDs and errors.
type status struct {
	Node           string            `json:"node"` // as -node has it
	NodeID         string            `json:"node_id"`
	ClusterID      string            `json:"cluster_id"`
	Incarnation    uint64            `json:"incarnation"`
	CopyCatAddress string            `json:"copycat_address"`
	GossipAddress  string            `json:"gossip_address"`
	DataCenter     string            `json:"data_center"`
	Storage        string            `json:"storage"`
	Nodes          []nodeStatus      `json:"nodes"`
	Structures     []structureStatus `json:"structures"`
}

type nodeStatus struct {
	NodeID     string `json:"node_id"`
	DataCenter string `json:"data_center"`
	Alive      bool   `json:"alive"`
}

type structureStatus struct {
	ID          string   `json:"id"`
	Catalog     bool     `json:"catalog,omitempty"`
	Role        string   `json:"role"`
	Interactive bool     `json:"interactive"`
	Leader      string   `json:"leader"`
	Voters      []string `json:"voters"`
	Learners    []string `json:"learners"`
	Commits     uint64   `json:"commits"`
	Snapshot    uint64   `json:"snapshot"`
	LastError   string   `json:"last_error,omitempty"`
}

func (a *api) status(w http.ResponseWriter, _ *http.Request) {
	from := a.cc.Status()
	s := status{
		Node: a.node, NodeID: from.NodeID, ClusterID: from.ClusterID, Incarnation: from.Incarnation,
		CopyCatAddress: from.CopyCatAddress, GossipAddress: from.GossipAddress, DataCenter: from.DataCenter, Storage: "ok",
		Nodes: []nodeStatus{}, Structures: []structureStatus{},
	}
	if from.Storage != nil {
		s.Storage = from.Storage.Error()
	}
	for _, n := range from.Nodes {
		s.Nodes = append(s.Nodes, nodeStatus{NodeID: n.NodeID, DataCenter: n.DataCenter, Alive: n.Alive})
	}
	for _, d := range from.Structures {
		one := structureStatus{
			ID: d.ID.String(), Catalog: d.Catalog, Role: d.Role, Interactive: d.Interactive, Leader: d.Leader,
			Voters: d.Voters, Learners: d.Learners, Commits: d.Commits, Snapshot: d.Snapshot,
		}
		if d.LastError != nil {
			one.LastError = d.LastError.Error()
		}
		s.Structures = append(s.Structures, one)
	}
	a.writeJSON(w, s)
}

func (a *api) writeJSON(w http.ResponseWriter, v any) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	a.write(w, append(data, '\n'))
}

func (a *api) write(w io.Writer, data []byte) {
	if _, err := w.Write(data); err != nil {
		a.log.Debug("answer not written", "error", err)
	}
}
