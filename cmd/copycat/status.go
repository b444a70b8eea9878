package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/copycat-replication/copycat/catalog"
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
	if s.Leaving {
		fmt.Fprintf(out, "leaving  %d replicas are still here\n", len(s.Structures))
		if s.LeaveWaits != "" {
			fmt.Fprintf(out, "leaving  %s\n", s.LeaveWaits)
		}
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATA CENTER\tNODE\tRACK\tALIVE\tADDRESS")
	nodes := slices.Clone(s.Nodes)
	slices.SortStableFunc(nodes, func(a, b nodestatus.Node) int {
		return cmp.Or(cmp.Compare(a.DataCenter, b.DataCenter), cmp.Compare(a.NodeID, b.NodeID))
	})
	for _, n := range nodes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s%s\n", n.DataCenter, n.NodeID, n.Rack, yes(n.Alive), n.Address, remark(n))
	}
	_ = w.Flush() // errors of out show when it is closed
	printPlaces(out, s)
	if len(s.SetAside)+len(s.Superseded) > 0 {
		fmt.Fprintln(out, "\nkept, and not used; copycat purge removes it")
	}
	for _, k := range s.SetAside {
		fmt.Fprintf(out, "  set aside   %s replica %d: %s\n", keptName(k), k.Replica, k.Why)
	}
	for _, k := range s.Superseded {
		fmt.Fprintf(out, "  superseded  %s@%s\n", keptName(k), k.Incarnation)
	}
	for _, g := range s.Structures {
		printStructure(out, g)
	}
}

func keptName(k nodestatus.Kept) string {
	if k.ID == "" {
		return unknownName
	}
	return groupName(k.ID, k.ID == catalog.ID.String())
}

// remark says what else is to be known of a node.
func remark(n nodestatus.Node) string {
	switch {
	case n.Leaving && n.Alive:
		return "  leaves"
	case n.Leaving:
		return "  has left"
	case !n.Alive && !n.Since.IsZero():
		return "  not seen since " + n.Since.UTC().Format("2006-01-02 15:04:05Z")
	}
	return ""
}

// place sums up the replicas in one data center.
type place struct {
	voters, learners, leaders, dead int
	known                           int    // of them, those whose lag is known here
	behind                          int    // of those, the ones with a lag
	worst                           uint64 // lag
}

// printPlaces sums up, for each data center, the replicas of the structures that
// have one on this node. Who leads a structure knows how far its others are behind.
func printPlaces(out io.Writer, s nodestatus.Status) {
	sums, led := make(map[string]*place), 0
	for _, n := range s.Nodes {
		sums[n.DataCenter] = &place{}
	}
	for _, g := range s.Structures {
		if g.Leader == s.NodeID {
			led++
		}
		for _, m := range g.Members {
			p := sums[m.DataCenter]
			if p == nil {
				p = &place{}
				sums[m.DataCenter] = p
			}
			p.add(m)
		}
	}
	fmt.Fprintf(out, "\nreplicas of the %d structures that have one here; lag of those of the %d that are led here\n", len(s.Structures), led)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATA CENTER\tVOTERS\tLEARNERS\tLEADERS\tON DEAD NODES\tBEHIND\tWORST LAG")
	for _, dc := range slices.Sorted(maps.Keys(sums)) {
		p, behind, worst := sums[dc], "-", "-"
		if p.known > 0 {
			behind, worst = strconv.Itoa(p.behind), strconv.FormatUint(p.worst, 10)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", known(dc), p.voters, p.learners, p.leaders, p.dead, behind, worst)
	}
	_ = w.Flush()
}

func (p *place) add(m nodestatus.Member) {
	if m.Voter {
		p.voters++
	} else {
		p.learners++
	}
	if m.Leader {
		p.leaders++
	}
	if !m.Alive {
		p.dead++
	}
	if m.Lag != nil {
		p.known++
		p.worst = max(p.worst, *m.Lag)
		if *m.Lag > 0 {
			p.behind++
		}
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
	if g.Waits != "" {
		fmt.Fprintf(out, "  waits: %s\n", g.Waits)
	}
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
			if h := health(g, m); h != "" {
				lag += "\t" + h
			}
			fmt.Fprintf(w, "  %s\treplica %d\t%s\t%s\tlag %s\n", known(dc), m.Replica, m.NodeID, kind, lag)
		}
	}
	_ = w.Flush()
}

// health says whether a member is there, and if not, what comes of it. Only the
// leader knows the latter: elsewhere it says where to look.
func health(g nodestatus.Structure, m nodestatus.Member) string {
	text := ""
	switch {
	case !m.Alive && m.Missing == 0 && g.Leader == "":
		return "DEAD; without a leader nobody replaces it"
	case !m.Alive && m.Missing == 0 && g.Role != "leader":
		return "DEAD; the leader's node says what comes of it"
	case !m.Alive:
		text = "DEAD"
	case m.Missing > 0:
		text = fmt.Sprintf("silent for %s", seconds(m.Missing))
	}
	switch {
	case m.Lost:
		text += ", lost"
	case m.ReplacedIn > 0 && m.Fate != "":
		text += ", given up in " + seconds(m.ReplacedIn)
	case m.ReplacedIn > 0 && m.Voter:
		text += ", replaced in " + seconds(m.ReplacedIn)
	case m.ReplacedIn > 0:
		text += ", removed in " + seconds(m.ReplacedIn)
	}
	if m.Fate != "" {
		text += ": " + m.Fate
	}
	return text
}

// seconds rounds up: what is left is not over.
func seconds(s float64) string { return fmt.Sprintf("%.0f s", math.Ceil(s)) }

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
