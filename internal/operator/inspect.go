// Package operator is what the command copycat does with data directories: look
// at one without touching it, rebuild a group from one, and remove from one what
// its node keeps and does not use any more.
package operator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/snapshot"
	"github.com/copycat-replication/copycat/wal"
)

// ReportVersion is that of a Report as JSON: fields are only added, and it grows
// when one changes its meaning.
const ReportVersion = 1

// Report is what a data directory holds.
type Report struct {
	Version  int       `json:"version"`
	Dir      string    `json:"dir"`
	Identity *Identity `json:"identity,omitempty"` // absent: see Damage
	// Damage is what could not be read, with its place. A directory that a node
	// is writing to may show some that is none.
	Damage   []string  `json:"damage,omitempty"`
	Segments []Segment `json:"segments"`
	Groups   []Group   `json:"groups"`
	Extra    []string  `json:"extra,omitempty"` // files that nothing names

	catalogs []*catalog.Machine // of each replica of the catalog here, to the end of its log
}

// Identity is the content of node.json.
type Identity struct {
	Version     int      `json:"version"`
	NodeID      string   `json:"node_id"`
	ClusterID   string   `json:"cluster_id"`
	Incarnation uint64   `json:"incarnation"`
	CopyCatPort int      `json:"copycat_port"`
	GossipPort  int      `json:"gossip_port"`
	Peers       []string `json:"peers"`
}

// Segment is one file of the log.
type Segment struct {
	Name    string `json:"name"`
	Bytes   int64  `json:"bytes"`
	End     int64  `json:"end"`
	Live    int    `json:"live_entries"`
	Damaged bool   `json:"damaged,omitempty"`
}

// Group is this node's replica of one raft group.
type Group struct {
	Local       uint64     `json:"local"` // number in the log, and name of the snapshots' folder
	Structure   string     `json:"structure"`
	Catalog     bool       `json:"catalog,omitempty"`
	Incarnation string     `json:"incarnation"`
	Replica     uint64     `json:"replica"`
	Phase       string     `json:"phase"`               // prepared, started, superseded
	SetAside    string     `json:"set_aside,omitempty"` // why: it is not proven whole
	Term        uint64     `json:"term"`
	Vote        uint64     `json:"vote"`
	First       uint64     `json:"first_index"`
	Last        uint64     `json:"last_index"`
	LastTerm    uint64     `json:"last_term"`
	Commit      uint64     `json:"commit"`  // as stored: more may have been committed
	Changes     uint64     `json:"changes"` // in the log, to its end
	Deleted     bool       `json:"deleted,omitempty"`
	Members     []Member   `json:"members"` // as of MembersAsOf
	MembersAsOf uint64     `json:"members_as_of"`
	Incomplete  string     `json:"incomplete,omitempty"` // why Members is not as of Last
	Sessions    int        `json:"sessions"`
	Snapshots   []Snapshot `json:"snapshots,omitempty"`
	Cold        []Cold     `json:"cold,omitempty"`
	Rebuilt     []Rebuilt  `json:"rebuilt,omitempty"`

	key  id.Group
	self id.Replica
	view raftgroup.LogView

	catalogIndex uint64 // of the catalog: where its machine is at the end of the log; 0: not known
}

// Member is one member of a group.
type Member struct {
	Replica uint64 `json:"replica"`
	NodeID  string `json:"node_id"`
	Voter   bool   `json:"voter"`
}

// Snapshot is one snapshot file.
type Snapshot struct {
	Commits  uint64 `json:"changes"`
	Index    uint64 `json:"index"`
	Term     uint64 `json:"term"`
	Bytes    int64  `json:"bytes"`
	Checksum string `json:"checksum"`
	Named    string `json:"named"` // newest, previous, or not: no frame names it
	State    string `json:"state"` // ok (head and end), verified (every byte), or what is wrong
}

// Cold is a range of entries in the cold store.
type Cold struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	Bytes uint64 `json:"bytes"`
}

// Rebuilt is a rebuilding that the log tells of.
type Rebuilt struct {
	From   string    `json:"from"`
	To     string    `json:"to"`
	Node   string    `json:"node_id"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// Inspect reads what a data directory holds, and writes nothing. It reads a
// damaged one as far as it goes, and one in use as of about now. verify reads
// every byte of the snapshots; the log is read whole in any case. An error means
// that there is nothing to tell.
func Inspect(dir string, verify bool) (Report, error) {
	if _, err := os.Stat(dir); err != nil {
		return Report{}, err
	}
	var r Report
	var err error
	for range inspectAttempts { // a node that runs may remove a segment while it is being read
		if r, err = inspectOnce(dir, verify); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return r, err
}

const inspectAttempts = 3

func inspectOnce(dir string, verify bool) (r Report, err error) {
	r = Report{Version: ReportVersion, Dir: dir, Segments: []Segment{}, Groups: []Group{}}
	over := vfs.NewOverlay(vfs.OS{})
	defer func() { err = errors.Join(err, over.Close()) }()
	r.readIdentity(over)
	if there, err := over.Exists(path.Join(dir, "wal")); err != nil || !there {
		r.Damage = append(r.Damage, "wal: there is no log")
		return r, err
	}
	l, err := wal.Open(wal.Options{FS: over, Dir: path.Join(dir, "wal"), SegmentSize: 1 << 20, Cold: noCold{}})
	if err != nil {
		r.Damage = append(r.Damage, err.Error())
		if errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
		return r, nil //nolint:nilerr // it is in the report
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	snaps, err := snapshot.OpenStore(snapshot.Options{FS: over, Dir: path.Join(dir, "snapshots"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, snaps.Close()) }()
	for _, d := range l.Damages() {
		r.Damage = append(r.Damage, d.Error())
	}
	segments := l.Segments()
	for _, s := range segments[:max(len(segments)-1, 0)] { // the last one is the overlay's
		r.Segments = append(r.Segments, Segment{Name: s.Name, Bytes: s.Bytes, End: s.End, Live: s.Live, Damaged: s.Damaged})
	}
	in := inspection{r: &r, log: l, snaps: snaps, fs: over, verify: verify, cold: make(map[uint64][]Cold)}
	for _, c := range l.ColdRanges() {
		in.cold[c.Group] = append(in.cold[c.Group], Cold{First: c.First, Last: c.Last, Bytes: c.Bytes})
	}
	return r, in.groups()
}

func (r *Report) readIdentity(fsys vfs.FS) {
	data, err := vfs.ReadFile(fsys, path.Join(r.Dir, "node.json"), 1<<20)
	var i Identity
	if err == nil {
		err = json.Unmarshal(data, &i)
	}
	if err != nil {
		r.Damage = append(r.Damage, fmt.Sprintf("node.json: %v", err))
		return
	}
	r.Identity = &i
}

// noCold stands for the cold store, which cannot be opened without writing to it.
type noCold struct{}

var errCold = errors.New("entries in the cold store are not read here")

func (noCold) Put([]wal.ColdRecord) error              { return errCold }
func (noCold) Get(_, _, _, _ uint64) ([][]byte, error) { return nil, errCold }
func (noCold) Delete(wal.ColdKey, wal.ColdKey) error   { return nil }
func (noCold) Sync() error                             { return nil }
func (noCold) Close() error                            { return nil }

// inspection is one look at a directory.
type inspection struct {
	r      *Report
	log    *wal.Log
	snaps  *snapshot.Store
	fs     vfs.FS
	verify bool
	cold   map[uint64][]Cold
}

func (in *inspection) groups() error {
	known := make(map[uint64]bool)
	for _, st := range in.log.Groups() {
		known[st.Group] = true
		in.r.Groups = append(in.r.Groups, in.group(st))
	}
	for _, s := range in.log.Suspects() {
		known[s.Group] = true
		st := wal.GroupState{Group: s.Group, HardState: s.HardState, Meta: s.Meta}
		g := in.group(st)
		g.SetAside = s.Why
		if s.File != "" {
			g.SetAside += fmt.Sprintf(" (%s at %d)", s.File, s.Offset)
		}
		in.r.Groups = append(in.r.Groups, g)
	}
	folders, err := in.snaps.Groups()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, local := range folders {
		if !known[local] {
			in.r.Extra = append(in.r.Extra, fmt.Sprintf("snapshots/%016x", local))
		}
	}
	return nil
}

func (in *inspection) group(st wal.GroupState) Group {
	g := Group{Local: st.Group, First: st.Compacted.Index + 1, Last: st.LastIndex, Cold: in.cold[st.Group], Members: []Member{}}
	g.Term, g.Vote, g.Commit = st.HardState.GetTerm(), st.HardState.GetVote(), st.HardState.GetCommit()
	rec, err := raftgroup.DecodeReplica(st.Meta)
	if err != nil {
		g.Incomplete = err.Error()
		in.r.Damage = append(in.r.Damage, fmt.Sprintf("group %d of the log: %v", st.Group, err))
		return g
	}
	g.key, g.self = rec.Group, rec.Replica
	g.Structure, g.Incarnation, g.Replica, g.Phase = rec.Group.Structure.String(), rec.Group.Incarnation.String(), uint64(rec.Replica), rec.Phase
	g.Catalog = rec.Group.Structure == catalog.ID
	var state []byte
	g.Snapshots, state = in.snapshots(st.Group, rec)
	if t, err := in.log.Term(st.Group, st.LastIndex); err == nil {
		g.LastTerm = t
	}
	in.read(&g, rec, state)
	return g
}

// read applies the log to its end: the commit index that is stored may be far
// behind the one that was known.
func (in *inspection) read(g *Group, rec raftgroup.ReplicaRecord, state []byte) {
	var err error
	if rec.Snapshot.Index != 0 && state == nil {
		err = errors.New("the snapshot that the log begins behind cannot be read")
	} else {
		entries := func(lo, hi, n uint64) ([]*raftpb.Entry, error) { return in.log.Entries(g.Local, lo, hi, n) }
		to := max(g.Last, rec.Snapshot.Index)
		if g.Catalog {
			err = in.readCatalog(g, rec, state, to, entries)
		} else {
			g.view, err = raftgroup.ReadLog(rec, state, to, entries)
		}
	}
	if err != nil {
		g.Incomplete = err.Error()
	}
	v := &g.view
	g.MembersAsOf, g.Changes, g.Deleted, g.Sessions = v.Index, v.Commits, v.Deleted, v.Sessions
	for r, n := range v.Voters {
		g.Members = append(g.Members, Member{Replica: uint64(r), NodeID: n.String(), Voter: true})
	}
	for r, n := range v.Learners {
		g.Members = append(g.Members, Member{Replica: uint64(r), NodeID: n.String()})
	}
	slices.SortFunc(g.Members, func(a, b Member) int { return int(a.Replica) - int(b.Replica) })
	for _, r := range v.Rebuilt {
		r.From.Birth, r.To.Birth = g.key.Incarnation.Birth, g.key.Incarnation.Birth
		g.Rebuilt = append(g.Rebuilt, Rebuilt{From: r.From.String(), To: r.To.String(), Node: r.Node.String(), At: r.At.UTC(), Reason: r.Reason})
	}
}

// readCatalog reads a replica of the catalog to the end of its log, and keeps
// what it says of the structures if that can be read whole. What nobody has
// committed counts too, which an operator who rebuilds from it would commit.
func (in *inspection) readCatalog(g *Group, rec raftgroup.ReplicaRecord, state []byte, to uint64, entries func(lo, hi, n uint64) ([]*raftpb.Entry, error)) error {
	m := catalog.NewMachine()
	if rec.Snapshot.Index != 0 {
		r, err := in.snaps.Open(g.Local, rec.Snapshot)
		if err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err == nil {
			err = m.Restore(data)
		}
		if err != nil {
			return err
		}
	}
	var err error
	g.view, err = raftgroup.ReadChanges(rec, state, to, entries, raftgroup.Changes{
		Base: m.Restore,
		Change: func(n uint64, change []byte) error {
			if n <= rec.Snapshot.Commits {
				return nil
			}
			_, err := m.Apply(change)
			return err
		},
	})
	if err == nil {
		in.r.catalogs, g.catalogIndex = append(in.r.catalogs, m), m.Index()
	}
	return err
}

// snapshots describes the files of a group, and returns the state in the newest
// one that the log names.
func (in *inspection) snapshots(local uint64, rec raftgroup.ReplicaRecord) (out []Snapshot, state []byte) {
	refs, err := in.snaps.List(local)
	if err != nil {
		in.r.Damage = append(in.r.Damage, err.Error())
	}
	for _, named := range []raftgroup.SnapshotRef{rec.Snapshot, rec.Previous} {
		if named.Index != 0 && !slices.Contains(refs, named) {
			refs = append(refs, named)
		}
	}
	for _, ref := range refs {
		s := Snapshot{Commits: ref.Commits, Index: ref.Index, Term: ref.Term, Bytes: ref.Size, Checksum: fmt.Sprintf("%x", ref.Checksum[:8]), Named: "not", State: "ok"}
		switch ref {
		case rec.Snapshot:
			s.Named = "newest"
		case rec.Previous:
			s.Named = "previous"
		}
		head, err := in.open(local, ref)
		if err == nil && in.verify {
			if err = in.snaps.Verify(local, ref); err == nil {
				s.State = "verified"
			}
		}
		if err != nil {
			s.State = err.Error()
			in.r.Damage = append(in.r.Damage, err.Error())
		} else if ref == rec.Snapshot {
			state = head
		}
		out = append(out, s)
	}
	return out, state
}

func (in *inspection) open(local uint64, ref raftgroup.SnapshotRef) ([]byte, error) {
	r, err := in.snaps.Open(local, ref)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(r.Head().State), r.Close()
}
