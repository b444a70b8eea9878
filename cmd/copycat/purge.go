package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/operator"
)

// unknownName stands for the structure of a replica of which not even that is left.
const unknownName = "unknown"

// purge removes replicas that a node keeps and does not use any more.
func purge(_ context.Context, flags *flag.FlagSet, args []string, in io.Reader, out io.Writer) error {
	which := flags.String("structure", "", "ID of the structure, \"catalog\", \"unknown\" (nothing tells which), or \"all\"")
	reason := flags.String("reason", "", "why, for the record")
	sure := flags.Bool("yes", false, "do not ask")
	force := flags.Bool("force", false, "also what is set aside, and has no other replica in DIR")
	used := flags.Bool("used", false, "also the replica of this one structure that the node uses: see docs/operations.md")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), "copycat purge removes from DIR, whose node must be stopped, the replicas that the node keeps\n"+
			"for you and does not use: those of groups that were rebuilt from another replica (superseded),\nand those whose log is damaged (set aside). What is in use is removed with -used alone.\n")
		flags.PrintDefaults()
	}
	dirs, err := parse(flags, args, 1, 1)
	if err != nil {
		return err
	}
	chosen, node, err := chooseLeftovers(*which, dirs[0], *force, *used, out)
	if err != nil {
		return err
	}
	if len(chosen) == 0 {
		fmt.Fprintln(out, "nothing to remove")
		return nil
	}
	if err := operator.CheckStopped(dirs[0]); err != nil {
		return err
	}
	if !*sure {
		fmt.Fprintf(out, "\nThis cannot be undone. To remove these %d replicas, type the ID of the node (%s): ", len(chosen), node)
		if err := confirm(in, node); err != nil {
			return err
		}
	}
	err = operator.Purge(dirs[0], chosen, *reason, time.Now(), func(r operator.PurgeRecord) {
		g := r.What.Group
		fmt.Fprintf(out, "removed %s@%s, replica %d, log number %d\n", leftoverName(g), g.Incarnation, g.Replica, g.Local)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "recorded in %s\n", operator.PurgeFile)
	return nil
}

// chooseLeftovers picks what to remove, and shows it.
func chooseLeftovers(which, dir string, force, used bool, out io.Writer) (chosen []operator.Leftover, node string, err error) {
	switch which {
	case "":
		return nil, "", errors.New("which structure? -structure ID, -structure catalog, -structure unknown, or -structure all")
	case "all", "catalog", unknownName:
	default:
		s, err := id.ParseStructure(which)
		if err != nil {
			return nil, "", err
		}
		which = s.String()
	}
	inUse := ""
	if used {
		if inUse = which; which == "all" || which == "catalog" || which == unknownName {
			return nil, "", errors.New("-used is about one structure: -structure ID")
		}
	}
	all, report, err := operator.Leftovers(dir, inUse)
	if err != nil {
		return nil, "", err
	}
	found := false
	for _, l := range all {
		if which != "all" && which != leftoverName(l.Group) {
			continue
		}
		found = true
		printLeftover(out, l)
		if err := l.Check(); err != nil && !force {
			fmt.Fprintf(out, "  left alone: %v\n", err)
			continue
		}
		chosen = append(chosen, l)
	}
	if !found && which != "all" {
		return nil, "", fmt.Errorf("%s holds no replica of %s that is superseded or set aside", dir, which)
	}
	return chosen, report.Identity.NodeID, nil
}

func leftoverName(g operator.Group) string {
	if g.Structure == "" {
		return unknownName
	}
	return groupName(g.Structure, g.Catalog)
}

func printLeftover(out io.Writer, l operator.Leftover) {
	g := l.Group
	fmt.Fprintf(out, "\n%s@%s  replica %d, %s, log number %d\n", leftoverName(g), g.Incarnation, g.Replica, g.Phase, g.Local)
	if g.SetAside != "" {
		fmt.Fprintf(out, "  SET ASIDE: %s\n", g.SetAside)
	}
	if l.Used {
		fmt.Fprintf(out, "  IN USE: its group has %d members, and counts on it. What only this replica holds is lost by this.\n", len(g.Members))
	}
	if g.Last > 0 {
		fmt.Fprintf(out, "  index %d to %d (term %d), commit stored %d, changes %d\n", g.First, g.Last, g.LastTerm, g.Commit, g.Changes)
	}
	if len(g.Snapshots) > 0 {
		fmt.Fprintf(out, "  %d snapshots, %d bytes\n", len(g.Snapshots), l.Bytes)
	}
	for _, o := range l.Others {
		fmt.Fprintf(out, "  in use beside it: %s\n", o)
	}
	if len(l.Others) == 0 {
		fmt.Fprintln(out, "  no other replica of it is in this directory")
	}
}
