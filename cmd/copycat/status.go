package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/copycat-replication/copycat/internal/nodestatus"
)

// status shows what a running node does.
func status(ctx context.Context, flags *flag.FlagSet, args []string, _ io.Reader, out io.Writer) error {
	asJSON := flags.Bool("json", false, "print JSON")
	dirs, err := parse(flags, args, 1, 1)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // a node answers in milliseconds, unless it is stopped
	defer cancel()
	s, err := nodestatus.Ask(ctx, dirs[0])
	if err != nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	printStatus(out, s)
	return nil
}

func printStatus(out io.Writer, s nodestatus.Status) {
	fmt.Fprintf(out, "node     %s (start %d)\ncluster  %s\nplace    %s / %s\naddress  %s, gossip %s\n", s.NodeID, s.Incarnation, s.ClusterID, s.DataCenter, s.Rack, s.Address, s.Gossip)
	if s.Storage != "" {
		fmt.Fprintf(out, "storage  %s\n", s.Storage)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATA CENTER\tNODE\tRACK\tALIVE\tADDRESS")
	nodes := slices.Clone(s.Nodes)
	slices.SortStableFunc(nodes, func(a, b nodestatus.Node) int {
		return cmp.Or(cmp.Compare(a.DataCenter, b.DataCenter), cmp.Compare(a.NodeID, b.NodeID))
	})
	for _, n := range nodes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", n.DataCenter, n.NodeID, n.Rack, yes(n.Alive), n.Address)
	}
	_ = w.Flush() // errors of out show when it is closed
	for _, g := range s.Structures {
		printStructure(out, g)
	}
}

func printStructure(out io.Writer, g nodestatus.Structure) {
	name := g.ID
	if g.Catalog {
		name = "catalog"
	}
	fmt.Fprintf(out, "\n%s@%s  %s, replica %d, term %d\n", name, g.Incarnation, g.Role, g.Replica, g.Term)
	switch {
	case g.QuorumLost:
		fmt.Fprintln(out, "  no leader: THE QUORUM IS LOST, as far as this replica sees; nothing is committed")
	case g.Leader == "":
		fmt.Fprintln(out, "  no leader")
	default:
		fmt.Fprintf(out, "  leader %s in %s\n", g.Leader, known(g.LeaderDataCenter))
	}
	if g.Deleted {
		fmt.Fprintln(out, "  deleted: this replica is about to go")
	}
	fmt.Fprintf(out, "  commit %d, applied %d (lag %d), changes %d, snapshot of %d, sessions %d\n", g.Commit, g.Applied, g.Lag, g.Commits, g.Snapshot, g.Sessions)
	if g.LastError != "" {
		fmt.Fprintf(out, "  last error: %s\n", g.LastError)
	}
	places := make(map[string][]nodestatus.Member)
	for _, m := range g.Members {
		places[m.DataCenter] = append(places[m.DataCenter], m)
	}
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	for _, dc := range slices.Sorted(maps.Keys(places)) {
		for _, m := range places[dc] {
			kind := "voter"
			if !m.Voter {
				kind = "learner"
			}
			if m.Leader {
				kind += ", leads"
			}
			lag := "-"
			if m.Lag != nil {
				lag = strconv.FormatUint(*m.Lag, 10)
			}
			alive := ""
			if !m.Alive {
				alive = "DEAD"
			}
			fmt.Fprintf(w, "  %s\treplica %d\t%s\t%s\tlag %s\t%s\n", known(dc), m.Replica, m.NodeID, kind, lag, alive)
		}
	}
	_ = w.Flush()
}

func known(place string) string {
	if place == "" {
		return "?"
	}
	return place
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}
