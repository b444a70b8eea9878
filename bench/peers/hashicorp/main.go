package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/copycat-replication/copycat/bench/internal/cli"
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
			f.Uint64Var(&s.snapshot, "snapshot-entries", 100_000, "SnapshotThreshold, in `entries`; CopyCat's default is the same")
		},
		Settings: s.String,
		Open:     s.open,
	}
}

type settings struct {
	cache, batch, inFlight int
	snapshot               uint64
}

func (s *settings) String() string {
	return fmt.Sprintf("raft-wal, LogCache %d, BatchApplyCh, MaxAppendEntries %d, MaxRPCsInFlight %d, SnapshotThreshold %d", s.cache, s.batch, s.inFlight, s.snapshot)
}
