package raftgroup_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat/internal/rig"
	"github.com/copycat-replication/copycat/raftgroup"
	"github.com/copycat-replication/copycat/wal"
)

// slowLog answers each update later, in order, as a disk with slow syncs does.
type slowLog struct {
	raftgroup.LogStore
	delay atomic.Int64 // nanoseconds
	queue chan slowAnswer
}

type slowAnswer struct {
	at   time.Time
	err  error
	done func(error)
}

func newSlowLog(l raftgroup.LogStore) *slowLog {
	s := &slowLog{LogStore: l, queue: make(chan slowAnswer, 1<<10)}
	go func() {
		for a := range s.queue {
			time.Sleep(time.Until(a.at))
			a.done(a.err)
		}
	}()
	return s
}

func (s *slowLog) Submit(u []wal.Update, done func(error)) {
	at := time.Now().Add(time.Duration(s.delay.Load()))
	s.LogStore.Submit(u, func(err error) { s.queue <- slowAnswer{at, err, done} })
}

// TestLeaderRefusesConnectionsOnSlowDisks has votes take so long to get on disk
// that the next who hears of a refused connection could bid meanwhile: it leaves
// alone whom it has voted for.
func TestLeaderRefusesConnectionsOnSlowDisks(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		synctest.Test(t, func(t *testing.T) { killedOnSlowDisks(t, 500+seed) })
	}
}

func killedOnSlowDisks(t *testing.T, seed uint64) {
	c := rig.New(t, 5, seed)
	var logs []*slowLog
	c.Tune = func(cfg *raftgroup.Config) {
		cfg.QuietAfter = -1
		l := newSlowLog(cfg.Log)
		logs, cfg.Log = append(logs, l), l
	}
	c.StartAll()
	defer func() {
		c.StopAll()
		for _, l := range logs {
			close(l.queue)
		}
	}()
	s := rig.Structure(1)
	c.Born(s, 5, raftgroup.Options{Voters: 5})
	c.Wait(time.Minute, "a leader", func() bool { l, _ := leaderOf(c, s); return l != nil })
	_, others := leaderOf(c, s)
	j := subscribe(t, others[0], raftgroup.SubscriptionConfig{Structure: s})
	j.sub.Propose() <- []byte("before")
	c.Wait(time.Minute, "the first commit", func() bool { return j.count() == 1 })
	time.Sleep(3*time.Second + time.Duration(seed)*7*time.Millisecond)
	leader, others := leaderOf(c, s)
	term := newestTerm(c, others...)
	for _, l := range logs {
		l.delay.Store(int64(700 * time.Millisecond))
	}
	leader.Crash(seed)
	stop := make(chan struct{})
	go func() { // each connection that is tried is refused
		for {
			for _, o := range others {
				go refuse(o, leader)
			}
			select {
			case <-time.After(time.Second):
			case <-stop:
				return
			}
		}
	}()
	j.sub.Propose() <- []byte("after")
	c.Wait(5*time.Minute, "a commit under another leader", func() bool { return j.count() == 2 })
	if n := newestTerm(c, others...) - term; n > 3 {
		t.Errorf("seed %d: %d elections for one dead leader", seed, n)
	}
	close(stop)
	for _, l := range logs {
		l.delay.Store(0)
	}
	time.Sleep(5 * time.Second)
}
