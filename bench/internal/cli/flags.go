package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// Flags parses a command line that has flags alone. done says that the command ends
// with it, and with this exit code: help was asked for, or it is wrong, which stderr
// has heard of then.
func Flags(f *flag.FlagSet, args []string, stderr io.Writer) (code int, done bool) {
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0, true
	case err != nil:
		return 2, true
	case f.NArg() > 0:
		fmt.Fprintf(stderr, "not a flag: %q\n", f.Arg(0))
		return 2, true
	}
	return 0, false
}
