package main_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gogo/protobuf/proto"

	"github.com/copycat-replication/copycat"
	pb "github.com/copycat-replication/copycat/examples/distmap/mappb"
)

// What follows, down to the line, is the code of CopyCat's published
// description, so that a program written from it keeps working. Only its logger
// is another one.

type theMap struct {
	data  map[string]string
	mutex *sync.RWMutex
	// used to propose changes to the data structure
	proposeCh chan<- []byte
	// if proposed changes are committed, they will be replayed to you via this channel
	commitCh <-chan []byte
	// if proposed changes cause an error, it will be replayed via this channel
	errorCh          <-chan error
	snapshotConsumer copycat.SnapshotConsumer
}

func newMap(cc copycat.CopyCat) (*theMap, error) {
	var err error
	m := &theMap{
		data:  make(map[string]string),
		mutex: &sync.RWMutex{},
	}

	m.proposeCh, m.commitCh, m.errorCh, m.snapshotConsumer, err = cc.SubscribeToDataStructureWithStringID("01CFR5R4JJE9KNRAJFFEAQ2SAJ", m.snapshotProvider)
	if err != nil {
		return nil, err
	}

	go m.serveChannels()
	return m, nil
}

func (m *theMap) get(key string) string {
	// nothing fancy here
	m.mutex.RLock()
	defer m.mutex.RUnlock()
	return m.data[key]
}

func (m *theMap) put(key, value string) {
	// take key and value and create an operation
	item := &pb.Operation{
		Key:   key,
		Value: value,
	}

	// marshal operation into byte slice
	bites, err := item.Marshal()
	if err != nil {
		log.Errorf("Can't marshal op: %s", err.Error())
	}

	// send byte slice to propose channel
	m.proposeCh <- bites
}

func (m *theMap) serveChannels() {
	for {
		select {
		case data, ok := <-m.commitCh:
			if !ok {
				return
			}

			// the committed entry is nil, that means we need to reload the
			// data structure from a consistent snapshot
			if data == nil {
				// retrieve the byte slice containing the snapshot from CopyCat
				bites, err := m.snapshotConsumer()
				if err != nil {
					log.Errorf("Error getting snapshot: %s", err.Error())
				}

				// deserialize the byte slice
				tcData := &pb.ReplicatMap{}
				err = proto.Unmarshal(bites, tcData)
				if err != nil {
					log.Errorf("Error unmarshaling snapshot: %s", err.Error())
				}

				// set internal structure to reflect the new state
				m.mutex.Lock()
				m.data = tcData.M
				m.mutex.Unlock()
			} else {
				// data is not nil and therefore contains a valid byte slice
				// in this case an operation
				// unmarshal byte slice into operation
				newOp := &pb.Operation{}
				err := newOp.Unmarshal(data)
				if err != nil {
					log.Errorf("Can't unmarshal operation: %s", err.Error())
				}

				// apply operation
				m.mutex.Lock()
				if newOp.Value == "" {
					// empty value means "delete"
					delete(m.data, newOp.Key)
				} else {
					// non-nil value means "set"
					m.data[newOp.Key] = newOp.Value
				}
				m.mutex.Unlock()
			}

		case err, ok := <-m.errorCh:
			if !ok {
				return
			}
			log.Errorf("Ran into error: %s", err.Error())
		}
	}
}

func (m *theMap) snapshotProvider() ([]byte, error) {
	// take current state and marshal it into a byte slice
	daMap := &pb.ReplicatMap{M: m.data}
	return daMap.Marshal()
}

// ---- end of the published code ----

var log sampleLog

type sampleLog struct{}

func (sampleLog) Errorf(format string, args ...any) {
	slog.Error(fmt.Sprintf(format, args...))
}

// startPublished starts a node as the description has it, but for the ports.
func startPublished(t *testing.T, dir, dc string, peers []string) copycat.CopyCat {
	t.Helper()
	ccc := copycat.DefaultConfig()
	ccc.Hostname = "127.0.0.1"
	ccc.CopyCatPort = 0
	ccc.GossipPort = 0
	ccc.CopyCatDataDir = dir
	ccc.PeersToContact = peers
	ccc.DataCenter = dc
	ccc.Profile = copycat.Local
	ccc.SnapshotEntries = 150 // so that snapshots are made and loaded here
	err := os.MkdirAll(ccc.CopyCatDataDir, os.ModePerm)
	if err != nil {
		t.Fatalf("Can't create CopyCat directory: %s", err)
	}
	cc, err := copycat.NewCopyCat(ccc)
	if err != nil {
		t.Fatalf("Can't start CopyCat: %s", err)
	}
	t.Cleanup(cc.Shutdown)
	return cc
}

// agree waits until all maps have what was put.
func agree(t *testing.T, maps []*theMap, want map[string]string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i, m := range maps {
		for key, value := range want {
			for m.get(key) != value {
				if time.Now().After(deadline) {
					t.Fatalf("map %d: %s is %q, not %q", i, key, m.get(key), value)
				}
				<-tick.C
			}
		}
	}
}

// spread waits until the map has a voter on each of the nodes. It may be born with one, where
// gossip has not told of the others yet: then nobody can do without that node.
func spread(t *testing.T, nodes []copycat.CopyCat) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, n := range nodes {
		for !slices.ContainsFunc(n.Status().Structures, func(s copycat.StructureStatus) bool {
			return !s.Catalog && len(s.Voters) == len(nodes)
		}) {
			if time.Now().After(deadline) {
				t.Fatalf("not on all nodes: %+v", n.Status().Structures)
			}
			<-tick.C
		}
	}
}

func TestPublishedSample(t *testing.T) {
	t.Parallel()
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	dcs := []string{"berlin", "paris", "lisbon"}
	nodes := make([]copycat.CopyCat, 3)
	var first []string
	for i := range nodes {
		nodes[i] = startPublished(t, filepath.Join(dirs[i], "copy-cat-db"), dcs[i], first)
		first = []string{nodes[0].Status().GossipAddress}
	}

	// All subscribe at the same moment.
	maps := make([]*theMap, 3)
	errs := make([]error, 3)
	gate := make(chan struct{})
	var all sync.WaitGroup
	for i := range nodes {
		all.Go(func() {
			<-gate
			maps[i], errs[i] = newMap(nodes[i])
		})
	}
	close(gate)
	all.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("node %d: %v", i, err)
		}
	}

	want := make(map[string]string)
	put := func(round string, through ...int) {
		for _, i := range through {
			for k := range 100 {
				key := fmt.Sprintf("%s/%d/%d", round, i, k)
				want[key] = "value of " + key
				maps[i].put(key, want[key])
			}
			maps[i].put(fmt.Sprintf("%s/%d/7", round, i), "") // an empty value means "delete"
			want[fmt.Sprintf("%s/%d/7", round, i)] = ""
		}
	}
	put("first", 0, 1, 2)
	agree(t, maps, want)
	spread(t, nodes)

	for i := range nodes { // each is stopped once, and started from its directory
		nodes[i].Shutdown()
		rest := []int{(i + 1) % 3, (i + 2) % 3}
		round := fmt.Sprintf("without %d", i)
		put(round, rest...)
		agree(t, []*theMap{maps[rest[0]], maps[rest[1]]}, want)

		nodes[i] = startPublished(t, filepath.Join(dirs[i], "copy-cat-db"), dcs[i], nil)
		var err error
		if maps[i], err = newMap(nodes[i]); err != nil {
			t.Fatal(err)
		}
		agree(t, maps, want)
		put(fmt.Sprintf("%d is back", i), 0, 1, 2)
		agree(t, maps, want)
	}
}
