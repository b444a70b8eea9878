package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/copycat-replication/copycat/bench/internal/cli"
	"github.com/copycat-replication/copycat/bench/internal/load"
)

func main() { os.Exit(command().Main()) }

func command() *cli.Command {
	s := &settings{}
	return &cli.Command{
		Name:  "hashicorp/raft",
		About: "Measures hashicorp/raft with raft-wal and a LogCache.",
		Flags: func(f *flag.FlagSet) {
			f.IntVar(&s.cache, "log-cache", 8192, "`entries` of the LogCache before raft-wal; 0: none")
			f.IntVar(&s.batch, "max-append", 1024, "MaxAppendEntries, in `entries`")
			f.IntVar(&s.inFlight, "in-flight", 2, "MaxRPCsInFlight of the transport, in `requests`")
			f.IntVar(&s.segment, "segment-size", wal.DefaultSegmentSize, "size of raft-wal's files, which are reserved on the disk, one at least for each replica, in `bytes`")
			f.DurationVar(&s.commit, "commit-timeout", 0, "CommitTimeout, a `duration`; 0: the library's 50ms, and 2ms with proposers on followers")
			f.Uint64Var(&s.snapshot, "snapshot-entries", 100_000, "SnapshotThreshold, in `entries`; CopyCat's default is the same")
		},
		Settings: s.String,
		Open:     s.open,
	}
}

type settings struct {
	cache, batch, inFlight int
	segment                int
	snapshot               uint64
	commit                 time.Duration
}

// commitTimeout is after how long without proposals followers are told of what
// was committed: a proposer on a follower that has its window full waits for it.
func (s *settings) commitTimeout(p load.Plan) time.Duration {
	switch {
	case s.commit > 0:
		return s.commit
	case p.Proposers == load.AtLeader:
		return raft.DefaultConfig().CommitTimeout
	}
	return followerCommit
}

const followerCommit = 2 * time.Millisecond

func (s *settings) String() string {
	segments := ""
	if s.segment != wal.DefaultSegmentSize {
		segments = fmt.Sprintf(" with segments of %d MiB", s.segment>>20)
	}
	return fmt.Sprintf("raft-wal%s, LogCache %d, BatchApplyCh, MaxAppendEntries %d, MaxRPCsInFlight %d, SnapshotThreshold %d, CommitTimeout 50 ms (2 ms with proposers on followers)", segments, s.cache, s.batch, s.inFlight, s.snapshot)
}
