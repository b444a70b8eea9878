package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/copycat-replication/copycat/wal"
)

// groupStorage shows raft one group's part of the log store. Raft reads
// through it from the group's step; delivery cursors read through it too.
type groupStorage struct {
	log   LogStore
	group uint64

	mended *mended

	// initial is what raft starts from: the hard state, and the membership as
	// of the applied index.
	hard *raftpb.HardState
	conf *raftpb.ConfState

	// offer is the newest snapshot held, as raft hands it to a follower: a
	// reference, not the bytes. Owned by the group's step.
	offer *raftpb.Snapshot
}

func (s *groupStorage) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return s.hard, s.conf, nil
}

func (s *groupStorage) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	entries, err := s.read(lo, hi, maxSize)
	return entries, raftError(err)
}

func (s *groupStorage) Term(i uint64) (uint64, error) {
	term, err := s.log.Term(s.group, i)
	return term, raftError(err)
}

func (s *groupStorage) LastIndex() (uint64, error) {
	i, err := s.log.LastIndex(s.group)
	return i, raftError(err)
}

func (s *groupStorage) FirstIndex() (uint64, error) {
	i, err := s.log.FirstIndex(s.group)
	return i, raftError(err)
}

func (s *groupStorage) Snapshot() (*raftpb.Snapshot, error) {
	if s.offer == nil {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return s.offer, nil
}

// entries is the delivery cursors' way in.
func (s *groupStorage) entries(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	return s.read(lo, hi, maxBytes)
}

// raftError turns the log store's two expected errors into those that raft
// knows by identity.
func raftError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, wal.ErrCompacted):
		return raft.ErrCompacted
	case errors.Is(err, wal.ErrUnavailable):
		return raft.ErrUnavailable
	}
	return err
}

// raftLogger sends raft's log to the user's, and turns raft's panics into Go
// panics that the group's step contains.
type raftLogger struct{ log *slog.Logger }

func (l raftLogger) Debug(v ...any)              { l.log.Debug(fmt.Sprint(v...)) }
func (l raftLogger) Debugf(f string, v ...any)   { l.debugf(f, v...) }
func (l raftLogger) Info(v ...any)               { l.log.Debug(fmt.Sprint(v...)) }
func (l raftLogger) Infof(f string, v ...any)    { l.debugf(f, v...) }
func (l raftLogger) Warning(v ...any)            { l.log.Warn(fmt.Sprint(v...)) }
func (l raftLogger) Warningf(f string, v ...any) { l.log.Warn(fmt.Sprintf(f, v...)) }
func (l raftLogger) Error(v ...any)              { l.log.Error(fmt.Sprint(v...)) }
func (l raftLogger) Errorf(f string, v ...any)   { l.log.Error(fmt.Sprintf(f, v...)) }
func (l raftLogger) Fatal(v ...any)              { l.Panic(v...) }
func (l raftLogger) Fatalf(f string, v ...any)   { l.Panicf(f, v...) }
func (l raftLogger) Panic(v ...any)              { panic(raftPanic(fmt.Sprint(v...))) }
func (l raftLogger) Panicf(f string, v ...any)   { panic(raftPanic(fmt.Sprintf(f, v...))) }

// debugf formats only if somebody listens: with thousands of groups, raft's
// chatter is not free.
func (l raftLogger) debugf(f string, v ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug(fmt.Sprintf(f, v...))
	}
}

// raftPanic is what raft reports through its logger when an invariant of its
// own is broken. The group's step recovers it: the replica stops, the process
// does not.
type raftPanic string

func (p raftPanic) Error() string { return "raft: " + string(p) }
