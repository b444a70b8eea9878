package copycat

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

const manyStructures = 500

// TestManyStructures has one node hold hundreds of structures: one proposal
// comes back on each, those without a subscription cost no goroutine, and a
// restart opens them all. It does not run beside other tests, since it counts
// goroutines and memory.
func TestManyStructures(t *testing.T) {
	cfg := testConfig(t, "")
	cc := start(t, cfg)
	// What the catalog and the first structure start is not counted.
	works := newList(t, cc, sampleID)
	works.propose <- []byte("x")
	works.waitFor(1)
	goroutines, heap := runtime.NumGoroutine(), heapInUse()

	began := time.Now()
	ids := make([]*ID, manyStructures)
	lists := make([]*list, manyStructures)
	inParallel(32, manyStructures, func(i int) {
		var err error
		if ids[i], err = cc.NewDataStructureID(); err != nil {
			t.Error(err)
			return
		}
		lists[i] = listFrom(t, cc, ids[i].String())
		lists[i].propose <- []byte(ids[i].String())
	})
	if t.Failed() {
		t.FailNow()
	}
	for _, l := range lists {
		l.waitFor(1)
	}
	t.Logf("%d structures created, subscribed to and written in %s: %d goroutines and %d KiB of heap more",
		manyStructures, time.Since(began), runtime.NumGoroutine()-goroutines, (heapInUse()-heap)>>10)

	for _, l := range lists {
		close(l.propose)
	}
	for i, l := range lists {
		<-l.done
		if errs := l.errors(); len(errs) > 0 {
			t.Errorf("structure %d: %v", i, errs)
		}
	}
	// The last goroutines of the subscriptions end just after their channels.
	waitStatus(t, cc, "no goroutine per structure", func(Status) bool { return runtime.NumGoroutine() <= goroutines+manyStructures/20 })
	t.Logf("without subscriptions: %d goroutines and %d KiB of heap more", runtime.NumGoroutine()-goroutines, (heapInUse()-heap)>>10)
	if st := cc.Status(); len(st.Structures) != manyStructures+2 {
		t.Errorf("%d structures in the status, want %d", len(st.Structures), manyStructures+2)
	}

	began = time.Now()
	cc.Shutdown()
	<-works.done
	t.Logf("shut down in %s", time.Since(began))
	began = time.Now()
	cc = start(t, cfg)
	t.Logf("started again in %s", time.Since(began))
	inParallel(32, manyStructures, func(i int) { lists[i] = listFrom(t, cc, ids[i].String()) })
	if t.Failed() {
		t.FailNow()
	}
	for i, l := range lists {
		l.waitFor(1)
		if got := l.all(); len(got) != 1 || got[0] != ids[i].String() {
			t.Fatalf("structure %s holds %q", ids[i], got)
		}
	}
	t.Logf("subscribed to and read in %s", time.Since(began))
	began = time.Now()
	cc.Shutdown()
	for _, l := range lists {
		<-l.done
	}
	t.Logf("shut down, with all subscriptions, in %s", time.Since(began))
}

// listFrom is newList for a goroutine that is not the test's own.
func listFrom(t testing.TB, cc CopyCat, id string) *list {
	t.Helper()
	l := &list{t: t, changed: make(chan struct{}, 1), done: make(chan struct{})}
	propose, commits, errs, consume, err := cc.SubscribeToDataStructureWithStringID(id, l.provide)
	if err != nil {
		t.Errorf("subscribe: %v", err)
		close(l.done)
		l.propose = make(chan []byte, 1)
		return l
	}
	l.propose = propose
	go l.serve(commits, errs, consume)
	return l
}

// inParallel calls f with 0 to n-1 from several goroutines.
func inParallel(workers, n int, f func(int)) {
	var all sync.WaitGroup
	next := make(chan int)
	for range workers {
		all.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
}

func heapInUse() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestManyFromASecondNode subscribes to more structures at once, from a node
// that has none of them, than that node makes replicas of at a time.
func TestManyFromASecondNode(t *testing.T) {
	t.Parallel()
	const n = 150
	first := start(t, testConfig(t, ""))
	ids := make([]string, n)
	lists := make([]*list, 2*n)
	inParallel(32, n, func(i int) {
		id, err := first.NewDataStructureID()
		if err != nil {
			t.Error(err)
			return
		}
		ids[i] = id.String()
		lists[i] = listFrom(t, first, ids[i])
		lists[i].propose <- []byte("from the first")
	})
	if t.Failed() {
		t.FailNow()
	}
	for _, l := range lists[:n] {
		l.waitFor(1)
	}
	second := grow(t, first, "")
	inParallel(32, n, func(i int) {
		lists[n+i] = listFrom(t, second, ids[i])
		lists[n+i].propose <- []byte("from the second")
	})
	if t.Failed() {
		t.FailNow()
	}
	for i := range n {
		lists[i].waitFor(2)
		lists[n+i].waitFor(2)
		sameLists(t, lists[i], lists[n+i])
	}
}
