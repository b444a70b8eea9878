package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/copycat-replication/copycat/bench/internal/cli"
	"github.com/copycat-replication/copycat/bench/internal/compare"
)

func main() {
	var first string
	if len(os.Args) > 1 {
		first = os.Args[1]
	}
	switch {
	case os.Getenv(nodeVariable) != "":
		os.Exit(runNode(os.Stdin, os.Stdout))
	case first == "wan":
		os.Exit(wanMain(os.Args[2:]))
	case first == "failover":
		os.Exit(failoverMain(os.Args[2:]))
	case first == "compare":
		os.Exit(compare.Main(os.Args[2:]))
	case first == "report":
		os.Exit(compare.ReportMain(os.Args[2:]))
	case first == "all":
		os.Exit(allMain(os.Args[2:]))
	case first != "" && !strings.HasPrefix(first, "-"):
		fmt.Fprintf(os.Stderr, "no such command: %q; there are compare, report, failover, wan and all, and bench itself, which takes flags alone: bench -h\n", first)
		os.Exit(2)
	}
	os.Exit(command().Main())
}

const about = `bench measures CopyCat, through its public channel API. Beside that:

  bench compare -h    CopyCat and its peers side by side, in named scenarios
  bench report -h     tables and plots of earlier comparisons
  bench failover -h   how long a SIGKILL of the leader's process stops commits
  bench wan -h        CopyCat over emulated links between data centers
  bench all -h        all of that one after the other, into a document`

func command() *cli.Command {
	s := &settings{}
	return &cli.Command{
		Name:        "copycat",
		About:       about,
		Subscribers: true,
		Flags: func(f *flag.FlagSet) {
			f.Uint64Var(&s.snapshotEntries, "snapshot-entries", 0, "a snapshot is due after that many `commits`; 0: the default")
			f.Uint64Var(&s.snapshotBytes, "snapshot-bytes", 0, "a snapshot is due after that many `bytes` of commits; 0: the default")
			f.BoolVar(&s.detached, "detached", false, "create the structures without subscriptions; for -measure idle")
			f.StringVar(&s.beside, "beside", "", "`what` goes on in one more structure beside those that are measured: stuck (one of its consumers does not\nread) or snapshots (they are made and sent, again and again)")
			f.Int64Var(&s.besideBytes, "beside-bytes", 256<<20, "size of each of those snapshots, in `bytes`")
			f.StringVar(&s.logLevel, "log", "", "write the nodes' log of this `level` and above (debug, info, warn, error) to stderr")
		},
		Settings: s.String,
		Open:     s.open,
	}
}

// settings are CopyCat's own flags.
type settings struct {
	snapshotEntries, snapshotBytes uint64
	logLevel                       string
	detached                       bool
	beside                         string // "", besideStuck or besideSnapshots
	besideBytes                    int64
}

// String names what is not the default.
func (s *settings) String() string {
	var parts []string
	if s.snapshotEntries > 0 {
		parts = append(parts, fmt.Sprintf("snapshot after %d commits", s.snapshotEntries))
	}
	if s.snapshotBytes > 0 {
		parts = append(parts, fmt.Sprintf("snapshot after %d bytes", s.snapshotBytes))
	}
	if s.detached {
		parts = append(parts, "no subscriptions")
	}
	switch s.beside {
	case besideStuck:
		parts = append(parts, "beside a structure with a consumer that does not read")
	case besideSnapshots:
		parts = append(parts, fmt.Sprintf("beside a structure with snapshots of %d MB", s.besideBytes>>20))
	}
	if s.logLevel != "" {
		parts = append(parts, "log "+s.logLevel)
	}
	return strings.Join(parts, ", ")
}
