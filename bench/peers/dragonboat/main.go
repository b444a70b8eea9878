package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/lni/dragonboat/v4/logger"

	"github.com/copycat-replication/copycat/bench/internal/cli"
)

func main() {
	logger.SetLoggerFactory(func(string) logger.ILogger { return quiet{} })
	os.Exit(command().Main())
}

func command() *cli.Command {
	s := &settings{}
	return &cli.Command{
		Name:  "dragonboat",
		About: "Measures dragonboat v4.",
		Flags: func(f *flag.FlagSet) {
			f.StringVar(&s.log, "log", "tan", "`log` store: tan or pebble")
			f.Uint64Var(&s.tick, "tick", 100, "RTTMillisecond, in `milliseconds`; elections take ten")
			f.BoolVar(&s.quiesce, "quiesce", true, "let idle shards fall quiet")
			f.Uint64Var(&s.snapshot, "snapshot-entries", 100_000, "SnapshotEntries, in `entries`")
		},
		Settings: s.String,
		Open:     s.open,
	}
}

type settings struct {
	log      string
	tick     uint64
	quiesce  bool
	snapshot uint64
}

func (s *settings) String() string {
	return fmt.Sprintf("log %s, RTTMillisecond %d, ElectionRTT 10, CheckQuorum, PreVote, Quiesce %t, SnapshotEntries %d", s.log, s.tick, s.quiesce, s.snapshot)
}

// quiet drops the log, but does not let the library go on where it must not.
type quiet struct{}

func (quiet) SetLevel(logger.LogLevel)       {}
func (quiet) Debugf(string, ...any)          {}
func (quiet) Infof(string, ...any)           {}
func (quiet) Warningf(string, ...any)        {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Panicf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }
