package copycat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/vfs"
)

const (
	identityFile    = "node.json"
	identityVersion = 1
	lockFile        = "LOCK"
)

// identity is what makes a data directory a node. It is stored as JSON, so
// that an operator can read it; each write replaces the file whole.
type identity struct {
	Version     int    `json:"version"`
	NodeID      string `json:"node_id"`
	ClusterID   string `json:"cluster_id,omitempty"`
	Incarnation uint64 `json:"incarnation"` // starts of this directory
	// Founding says that this node started the cluster, and may not have made
	// the catalog's first replica before it ended.
	Founding    bool     `json:"founding,omitempty"`
	CopyCatPort int      `json:"copycat_port,omitempty"`
	GossipPort  int      `json:"gossip_port,omitempty"`
	Peers       []string `json:"peers,omitempty"` // gossip addresses that were alive

	node    id.Node
	cluster id.Cluster
}

// dataDir is the directory of one node, locked against other processes.
type dataDir struct {
	fs   vfs.FS
	dir  string
	lock io.Closer

	writing sync.Mutex // held over a change and its file: one must not overtake another
	mu      sync.Mutex // guards id; taken after writing, and never held over the disk
	id      identity
}

// openDataDir locks a directory and reads its identity, or makes one. The
// incarnation is counted up, durably, before anybody learns of it.
func openDataDir(fsys vfs.FS, dir string, now time.Time, entropy io.Reader) (*dataDir, error) {
	fail := func(err error) (*dataDir, error) {
		return nil, fmt.Errorf("%w: %s: %w", ErrDataDir, dir, err)
	}
	if err := makeDataDir(fsys, dir); err != nil {
		return fail(err)
	}
	lock, err := fsys.Lock(path.Join(dir, lockFile))
	if err != nil {
		return fail(err)
	}
	d := &dataDir{fs: fsys, dir: dir, lock: lock}
	if err := d.load(now, entropy); err != nil {
		return fail(errors.Join(err, lock.Close()))
	}
	return d, nil
}

// makeDataDir makes the directory so that it survives a crash: without its name
// in the parent, all that was synced below it is gone.
func makeDataDir(fsys vfs.FS, dir string) error {
	there, err := fsys.Exists(dir)
	if err != nil {
		return err
	}
	if !there {
		return vfs.MkdirAllSync(fsys, dir)
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return err // it is no directory
	}
	// An earlier process may have made it and died before it synced the name.
	// More likely an operator has, in a directory that this process may not read
	// or that is on a read-only file system: then there is nothing to make good.
	_ = fsys.SyncDir(path.Dir(dir))
	return nil
}

func (d *dataDir) load(now time.Time, entropy io.Reader) error {
	data, err := readFile(d.fs, path.Join(d.dir, identityFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := d.refuseRemains(); err != nil {
			return err
		}
		d.id.Version = identityVersion
		if d.id.node, err = id.NewNode(now, entropy); err != nil {
			return fmt.Errorf("make node ID: %w", err)
		}
		d.id.NodeID = d.id.node.String()
	case err != nil:
		return err
	default:
		if err := d.id.parse(data); err != nil {
			return fmt.Errorf("%s: %w", identityFile, err)
		}
	}
	return d.write(func(i *identity) { i.Incarnation++ })
}

// refuseRemains refuses a directory that holds a log but no identity: a new
// identity would vote with an old one's log.
func (d *dataDir) refuseRemains() error {
	for _, name := range []string{"wal", "snapshots"} {
		there, err := d.fs.Exists(path.Join(d.dir, name))
		if err != nil {
			return err
		}
		if there {
			return fmt.Errorf("%s is missing, but %s is there: restore the file, or start with an empty directory", identityFile, name)
		}
	}
	return nil
}

func (i *identity) parse(data []byte) error {
	if err := json.Unmarshal(data, i); err != nil {
		return err
	}
	switch {
	case i.Version > identityVersion:
		return fmt.Errorf("%w: format %d", ErrNewerFormat, i.Version)
	case i.Version < 1:
		return fmt.Errorf("format %d does not exist", i.Version)
	}
	var err error
	if i.node, err = id.ParseNode(i.NodeID); err != nil {
		return err
	}
	if i.node.IsZero() {
		return fmt.Errorf("%w: node ID %q names no node", ErrMalformedID, i.NodeID)
	}
	if i.ClusterID == "" {
		return nil
	}
	if i.cluster, err = id.ParseCluster(i.ClusterID); err != nil {
		return err
	}
	if i.cluster.IsZero() {
		return fmt.Errorf("%w: cluster ID %q names no cluster", ErrMalformedID, i.ClusterID)
	}
	return nil
}

// get returns a copy of the identity. It does not wait for the disk.
func (d *dataDir) get() identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id
}

// change changes the identity, durably: the file is replaced whole. An error is
// ErrDataDir.
func (d *dataDir) change(f func(*identity)) error {
	if err := d.write(f); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDataDir, d.dir, err)
	}
	return nil
}

func (d *dataDir) write(f func(*identity)) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	next := d.get()
	f(&next)
	if !next.cluster.IsZero() {
		next.ClusterID = next.cluster.String()
	}
	data, err := json.MarshalIndent(&next, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(d.fs, d.dir, identityFile, append(data, '\n')); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.id = next
	return nil
}

func (d *dataDir) close() error { return d.lock.Close() }

// readFile reads a small file whole.
func readFile(fsys vfs.FS, name string) (_ []byte, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > 1<<20 {
		return nil, fmt.Errorf("%s has %d bytes", name, size)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, size), data); err != nil {
		return nil, err
	}
	return data, nil
}

// writeFile replaces a small file: after a crash there is the old one or the new one.
func writeFile(fsys vfs.FS, dir, name string, data []byte) error {
	temp := path.Join(dir, name+".new")
	f, err := fsys.Create(temp)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := fsys.Rename(temp, path.Join(dir, name)); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}
