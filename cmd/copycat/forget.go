package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/copycat-replication/copycat/catalog"
	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/nodestatus"
)

// forget has a structure deleted of which no replica is left.
func forget(ctx context.Context, flags *flag.FlagSet, args []string, in io.Reader, out io.Writer) error {
	which := flags.String("structure", "", "ID of the structure")
	sure := flags.Bool("yes", false, "do not ask")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), "copycat forget asks the node that runs on DIR to have a structure deleted of which no replica is\n"+
			"left, so that its ID can be used again. DeleteDataStructure cannot: it needs a quorum of the structure.\n")
		flags.PrintDefaults()
	}
	dirs, err := parse(flags, args, 1, 1)
	if err != nil {
		return err
	}
	if *which == "" {
		return errors.New("which structure? -structure ID")
	}
	s, err := id.ParseStructure(*which)
	if err != nil {
		return err
	}
	if s == catalog.ID {
		return errors.New("the catalog is rebuilt, and not forgotten: copycat recover -structure catalog")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // what the node waits for takes half of it at most
	defer cancel()
	held, err := nodestatus.AskHoldings(ctx, dirs[0], s.String())
	if err != nil {
		return err
	}
	rec := held.Record
	life := id.Incarnation{Birth: rec.Birth, Recovery: rec.Recovery}
	switch {
	case rec.Birth == 0:
		return fmt.Errorf("the catalog knows of no structure %s", s)
	case rec.Deleted != 0:
		fmt.Fprintf(out, "%s@%s was deleted already\n", s, life)
		return nil
	}
	fmt.Fprintf(out, "%s@%s\n", s, life)
	for _, n := range held.Nodes {
		switch {
		case n.Life != "":
			return fmt.Errorf("node %s has a replica of %s: rebuild it from there, if its quorum is lost, or delete it", n.NodeID, n.Life)
		case n.Error != "":
			fmt.Fprintf(out, "  %s  does not answer: %s\n", n.NodeID, n.Error)
		default:
			fmt.Fprintf(out, "  %s  answers, and has no replica in use\n", n.NodeID)
		}
	}
	fmt.Fprintln(out, "  Lost: ALL that was ever committed to it. If a directory of one of these nodes can still be found, or one of")
	fmt.Fprintln(out, "  them has a replica set aside, see copycat recover first: a replica that turns up later is removed by its node.")
	if !*sure {
		fmt.Fprint(out, "\nTo delete it, type the ID of the structure: ")
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil && err != io.EOF {
			return err
		}
		if strings.TrimSpace(line) != s.String() {
			return errNotConfirmed
		}
	}
	if err := nodestatus.Forget(ctx, dirs[0], s.String(), rec.Birth); err != nil {
		return err
	}
	fmt.Fprintf(out, "deleted %s@%s: the ID is free for CreateDataStructure\n", s, life)
	return nil
}
