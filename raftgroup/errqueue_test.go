package raftgroup

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestErrorsComeInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newErrorQueue()
		read := 0
		for i := range 3 {
			q.warn(fmt.Errorf("warning %d", i))
			q.proposal(fmt.Errorf("proposal %d", i), func() { read++ })
		}
		go q.run()
		var got []string
		for range 6 {
			got = append(got, (<-q.out).Error())
		}
		synctest.Wait()
		want := []string{"proposal 0", "proposal 1", "proposal 2", "warning 0", "warning 1", "warning 2"}
		if !slices.Equal(got, want) || read != 3 {
			t.Fatalf("%v, %d read", got, read)
		}
		q.warn(errors.New("later")) // wakes it
		if err := <-q.out; err.Error() != "later" {
			t.Fatal(err)
		}
		q.seal()
		if n := q.finish(nil); n != 0 {
			t.Fatalf("%d not seen", n)
		}
		if _, open := <-q.out; open {
			t.Fatal("the channel is open")
		}
	})
}

// Nobody reads: of warnings the oldest go and are counted, of errors about
// proposals none goes, and each holds its place until it is handed over.
func TestUnreadErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newErrorQueue()
		go q.run()
		const n = errorBuffer + 200
		handed := 0
		for i := range n {
			q.proposal(fmt.Errorf("proposal %d", i), func() { handed++ })
		}
		synctest.Wait()
		if handed != errorBuffer {
			t.Fatalf("%d handed over", handed)
		}
		for i := range maxWarnings + 10 {
			q.warn(fmt.Errorf("warning %d", i))
		}
		if len(q.warnings) != maxWarnings || q.dropped != 10 {
			t.Fatalf("%d warnings, %d dropped", len(q.warnings), q.dropped)
		}
		for i := range n {
			if err := <-q.out; err.Error() != fmt.Sprint("proposal ", i) {
				t.Fatalf("%d: %v", i, err)
			}
		}
		for i := range maxWarnings {
			if err := <-q.out; err.Error() != fmt.Sprint("warning ", i+10) {
				t.Fatalf("%d: %v", i, err)
			}
		}
		q.seal()
		if got := q.finish(nil); got != 10 || handed != n {
			t.Fatalf("%d not seen, %d handed over", got, handed)
		}
	})
}

// A subscription that ends waits a moment for its last errors to be read, and
// then until the host shuts down.
func TestFinishGivesUpOnShutdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q, stop := newErrorQueue(), make(chan struct{})
		for range errorBuffer + 5 {
			q.proposal(errors.New("unread"), nil)
		}
		q.warn(errors.New("unread"))
		go q.run()
		began := time.Now()
		q.await()
		if waited := time.Since(began); waited != errorGrace {
			t.Fatalf("it waited %s", waited)
		}
		q.seal()
		var lost uint64
		finished := make(chan struct{})
		go func() { lost = q.finish(stop); close(finished) }()
		synctest.Wait()
		select {
		case <-finished:
			t.Fatal("finished without a reader or a shutdown")
		default:
		}
		close(stop)
		<-finished
		if lost != 6 {
			t.Fatalf("%d lost", lost)
		}
		n := 0
		for range q.out { // what is in the channel can still be read
			n++
		}
		if n != errorBuffer {
			t.Fatalf("%d in the channel", n)
		}
		q.warn(errors.New("after the end")) // harmless
		q.proposal(errors.New("after the end"), nil)
	})
}

func TestAwaitReturnsAtOnceIfAllIsRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newErrorQueue()
		q.warn(errors.New("fits into the channel"))
		go q.run()
		began := time.Now()
		q.await()
		if waited := time.Since(began); waited != 0 {
			t.Fatalf("it waited %s", waited)
		}
		q.seal()
		if n := q.finish(nil); n != 0 {
			t.Fatalf("%d lost", n)
		}
	})
}

// TestWhyItEndedIsKept: a consumer that is slow for long, and a program that looks at
// the error channel only in the end. Whatever warnings it has missed, it learns
// why the subscription ended, and that not all was delivered.
func TestWhyItEndedIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSubscription(nil, SubscriptionConfig{}.withDefaults())
		go s.errs.run()
		warn := func() {
			for range errorBuffer + maxWarnings + 10 {
				s.report(ErrSlowConsumer)
			}
			synctest.Wait()
		}
		warn()
		s.dismiss(ErrDeleted, 7)
		s.owed.Store(7)
		warn()
		d := &deliverer{sub: s}
		if st := d.end(); st != stepEnd {
			t.Fatal(st)
		}
		warn()
		s.errs.seal()
		finished := make(chan struct{})
		go func() { s.errs.finish(nil); close(finished) }()
		var got []error
		for err := range s.errs.out {
			if !errors.Is(err, ErrSlowConsumer) {
				got = append(got, err)
			}
		}
		<-finished
		if len(got) != 2 || !errors.Is(got[0], ErrDeleted) || !errors.Is(got[1], ErrUndelivered) {
			t.Errorf("beside warnings: %v", got)
		}
	})
}
