package raftgroup

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/copycat-replication/copycat/pb/grouppb"
)

// applyConfChange computes the membership after a configuration change, as
// raft does, but as a pure function and with an error where raft panics. The
// apply cursor asks it before it tells raft, and delivery cursors use it to
// know the membership as of their own place in the log.
func applyConfChange(cs *raftpb.ConfState, cc *raftpb.ConfChangeV2) (*raftpb.ConfState, error) {
	changer := confchange.Changer{Tracker: tracker.MakeProgressTracker(1, 0), LastIndex: 1}
	cfg, progress, err := confchange.Restore(changer, cs)
	if err != nil {
		return nil, fmt.Errorf("membership %v: %w", cs, err)
	}
	changer.Tracker.Config, changer.Tracker.Progress = cfg, progress
	if cc.LeaveJoint() {
		cfg, _, err = changer.LeaveJoint()
	} else if autoLeave, ok := cc.EnterJoint(); ok {
		cfg, _, err = changer.EnterJoint(autoLeave, cc.Changes...)
	} else {
		cfg, _, err = changer.Simple(cc.Changes...)
	}
	if err != nil {
		return nil, err
	}
	next := tracker.ProgressTracker{Config: cfg}
	return next.ConfState(), nil
}

// checkConf tells whether raft could restore a membership: it panics if not.
func checkConf(cs *raftpb.ConfState) error {
	if len(cs.GetVoters()) == 0 {
		return errors.New("a membership without voters")
	}
	changer := confchange.Changer{Tracker: tracker.MakeProgressTracker(1, 0), LastIndex: 1}
	cfg, _, err := confchange.Restore(changer, cs)
	if err != nil {
		return fmt.Errorf("membership %v: %w", cs, err)
	}
	restored := tracker.ProgressTracker{Config: cfg}
	return cs.Equivalent(restored.ConfState())
}

// decodeConfChange reads an entry of either of raft's two kinds of
// configuration changes. Raft's own automatic leave has no data.
func decodeConfChange(e *raftpb.Entry) (*raftpb.ConfChangeV2, error) {
	if e.GetType() == raftpb.EntryConfChange {
		var cc raftpb.ConfChange
		if err := proto.Unmarshal(e.GetData(), &cc); err != nil {
			return nil, fmt.Errorf("%w: configuration change: %w", ErrMalformedEntry, err)
		}
		return cc.AsV2(), nil
	}
	cc := new(raftpb.ConfChangeV2)
	if err := proto.Unmarshal(e.GetData(), cc); err != nil {
		return nil, fmt.Errorf("%w: configuration change: %w", ErrMalformedEntry, err)
	}
	return cc, nil
}

// inConf reports whether a replica is a member in any role.
func inConf(cs *raftpb.ConfState, replica uint64) bool {
	for _, set := range [][]uint64{cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing(), cs.GetLearnersNext()} {
		for _, r := range set {
			if r == replica {
				return true
			}
		}
	}
	return false
}

// isJoint reports whether a joint change is under way.
func isJoint(cs *raftpb.ConfState) bool { return len(cs.GetVotersOutgoing()) > 0 }

func encodeConf(cs *raftpb.ConfState) *grouppb.Conf {
	return &grouppb.Conf{
		Voters:         cs.GetVoters(),
		Learners:       cs.GetLearners(),
		VotersOutgoing: cs.GetVotersOutgoing(),
		LearnersNext:   cs.GetLearnersNext(),
		AutoLeave:      cs.GetAutoLeave(),
	}
}

func decodeConf(c *grouppb.Conf) *raftpb.ConfState {
	if c == nil {
		return &raftpb.ConfState{AutoLeave: new(bool)}
	}
	return &raftpb.ConfState{
		Voters:         c.Voters,
		Learners:       c.Learners,
		VotersOutgoing: c.VotersOutgoing,
		LearnersNext:   c.LearnersNext,
		AutoLeave:      new(c.AutoLeave),
	}
}
