package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/copycat-replication/copycat/internal/operator"
	"github.com/copycat-replication/copycat/raftgroup"
)

// inspect shows what a data directory holds. Damage is errDamage, so that a script sees it.
func inspect(_ context.Context, flags *flag.FlagSet, args []string, _ io.Reader, out io.Writer) error {
	asJSON := flags.Bool("json", false, "print JSON")
	verify := flags.Bool("verify", false, "read every byte of the snapshots")
	dirs, err := parse(flags, args, 1, 1)
	if err != nil {
		return err
	}
	r, err := operator.Inspect(dirs[0], *verify)
	if err != nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		printReport(out, r)
	}
	if n := len(r.Damage); err == nil && n > 0 {
		err = fmt.Errorf("%s: %w in %d places", dirs[0], errDamage, n)
	}
	return err
}

func printReport(out io.Writer, r operator.Report) {
	if i := r.Identity; i != nil {
		fmt.Fprintf(out, "node     %s (started %d times)\ncluster  %s\nports    %d, gossip %d\npeers    %s\n", i.NodeID, i.Incarnation, i.ClusterID, i.CopyCatPort, i.GossipPort, strings.Join(i.Peers, " "))
	}
	if len(r.Damage) == 0 {
		fmt.Fprintln(out, "damage   none found")
	}
	for _, d := range r.Damage {
		fmt.Fprintf(out, "DAMAGE   %s\n", d)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SEGMENT\tBYTES\tUSED\tLIVE ENTRIES")
	for _, s := range r.Segments {
		damaged := ""
		if s.Damaged {
			damaged = "\tDAMAGED"
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d%s\n", s.Name, s.Bytes, s.End, s.Live, damaged)
	}
	_ = w.Flush() // errors of out show when it is closed
	for _, g := range r.Groups {
		printGroup(out, g)
	}
	for _, e := range r.Extra {
		fmt.Fprintf(out, "\nextra    %s: nothing names it; the next start removes it\n", e)
	}
}

func printGroup(out io.Writer, g operator.Group) {
	fmt.Fprintf(out, "\n%s@%s  replica %d, %s, log number %d\n", groupName(g.Structure, g.Catalog), g.Incarnation, g.Replica, g.Phase, g.Local)
	if g.SetAside != "" {
		fmt.Fprintf(out, "  SET ASIDE: %s\n", g.SetAside)
	}
	if g.Phase == raftgroup.PhaseSuperseded {
		fmt.Fprintln(out, "  superseded: the group was rebuilt from another replica; this one is not used, and stays until copycat purge removes it")
	}
	if g.Deleted {
		fmt.Fprintln(out, "  deleted: the replica waits to be removed")
	}
	fmt.Fprintf(out, "  term %d, vote %d, index %d to %d (term %d), commit stored %d, changes %d, sessions %d\n", g.Term, g.Vote, g.First, g.Last, g.LastTerm, g.Commit, g.Changes, g.Sessions)
	if g.Incomplete != "" {
		fmt.Fprintf(out, "  members as of index %d only: %s\n", g.MembersAsOf, g.Incomplete)
	}
	for _, m := range g.Members {
		kind := "voter"
		if !m.Voter {
			kind = "learner"
		}
		fmt.Fprintf(out, "  member   replica %d on %s, %s\n", m.Replica, m.NodeID, kind)
	}
	for _, s := range g.Snapshots {
		fmt.Fprintf(out, "  snapshot of %d changes, index %d, term %d, %d bytes, %s…, %s: %s\n", s.Commits, s.Index, s.Term, s.Bytes, s.Checksum, s.Named, s.State)
	}
	for _, c := range g.Cold {
		fmt.Fprintf(out, "  cold     index %d to %d, %d bytes\n", c.First, c.Last, c.Bytes)
	}
	for _, b := range g.Rebuilt {
		fmt.Fprintf(out, "  rebuilt  %s as %s on %s at %s: %s\n", b.From, b.To, b.Node, b.At.Format("2006-01-02 15:04:05Z"), b.Reason)
	}
}

func groupName(structure string, isCatalog bool) string {
	if isCatalog {
		return "catalog"
	}
	return structure
}
