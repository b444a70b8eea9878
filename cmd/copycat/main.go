// Command copycat looks at the nodes of CopyCat, and helps where no node can
// help itself: see docs/operations.md.
//
//	copycat status  [-json] DIR       what a running node does
//	copycat inspect [-json] [-verify] DIR   what a data directory holds, read-only
//	copycat recover -structure ID … DIR [OTHERDIR …]
//	                                  rebuild a group from one replica, its quorum being lost for good
//	copycat purge   -structure ID … DIR
//	                                  remove replicas that the node keeps and does not use any more
//	copycat forget  -structure ID … DIR
//	                                  delete a structure of which no replica is left
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// errUsage says that the arguments make no sense; what is wrong was printed.
var errUsage = errors.New("usage")

// errDamage says that what was looked at is damaged; where, was printed.
var errDamage = errors.New("damaged")

const usage = `usage:
  copycat status [-json] DIR
  copycat inspect [-json] [-verify] DIR
  copycat recover -structure ID|catalog|all [-reason TEXT] [-ask RUNNINGDIR] [-beyond LIFE]
                  [-superseded] [-deleted] [-yes] [-force] DIR [OTHERDIR ...]
  copycat purge -structure ID|catalog|unknown|all [-reason TEXT] [-used] [-yes] [-force] DIR
  copycat forget -structure ID [-yes] DIR

DIR is a node's data directory (CopyCatDataDir). copycat COMMAND -h tells more.
Exit: 0 done; 1 not done, and why is printed; 2 the arguments make no sense; 3 inspect found damage.
`

// run is the command: 0 it did, 1 it failed, 2 the arguments make no sense, 3 it found damage.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(errs, usage)
		return 2
	}
	commands := map[string]func(context.Context, *flag.FlagSet, []string, io.Reader, io.Writer) error{
		"status": status, "inspect": inspect, "recover": rebuild, "purge": purge, "forget": forget,
	}
	command, ok := commands[args[0]]
	if !ok {
		fmt.Fprint(errs, usage)
		return 2
	}
	flags := flag.NewFlagSet("copycat "+args[0], flag.ContinueOnError)
	flags.SetOutput(errs)
	err := command(ctx, flags, args[1:], in, out)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp), errors.Is(err, errUsage):
		return 2
	}
	fmt.Fprintf(errs, "copycat %s: %v\n", args[0], err)
	if errors.Is(err, errDamage) {
		return 3
	}
	return 1
}

// parse reads the flags, and wants at least least and at most most directories.
func parse(flags *flag.FlagSet, args []string, least, most int) ([]string, error) {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, errUsage
	}
	if n := flags.NArg(); n < least || (most > 0 && n > most) {
		fmt.Fprint(flags.Output(), usage)
		return nil, errUsage
	}
	return flags.Args(), nil
}
