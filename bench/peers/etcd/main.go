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
		Name:        "etcd",
		About:       "Measures etcd, embedded, with a client in its process.",
		Subscribers: true,
		Flags: func(f *flag.FlagSet) {
			f.Uint64Var(&s.snapshot, "snapshot-entries", 10_000, "SnapshotCount, in `entries`: etcd's default")
		},
		Settings: s.String,
		Open:     s.open,
	}
}

type settings struct{ snapshot uint64 }

func (s *settings) String() string {
	return fmt.Sprintf("embedded, in-process client, a range of keys for a structure, watchers, SnapshotCount %d", s.snapshot)
}
