package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/internal/operator"
	"github.com/copycat-replication/copycat/raftgroup"
)

var errNotConfirmed = errors.New("not confirmed, nothing was changed")

// confirm reads a line, which must be the word that was asked for.
func confirm(in io.Reader, word string) error {
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	if strings.TrimSpace(line) != word {
		return errNotConfirmed
	}
	return nil
}

// rebuild rebuilds groups from one replica, when their quorum is lost for good.
func rebuild(ctx context.Context, flags *flag.FlagSet, args []string, in io.Reader, out io.Writer) error {
	which := flags.String("structure", "", "ID of the structure, \"catalog\", or \"all\": each group that has lost its quorum and has its best replica in DIR")
	reason := flags.String("reason", "", "why, for the record")
	sure := flags.Bool("yes", false, "do not ask")
	force := flags.Bool("force", false, "even if another directory has more of the log, there is a majority after all, the group has moved, or a later life is known of")
	deleted := flags.Bool("deleted", false, "even if the catalog says that the structure was deleted")
	superseded := flags.Bool("superseded", false, "also from a replica that was set aside because its group had been rebuilt from another one")
	beyond := flags.String("beyond", "", "a life of the structure that DIRs do not tell of, as status prints it, such as 1.1-c448: the new one is to be later")
	running := flags.String("ask", "", "data directory of a node of the cluster that runs on this machine, to ask it what the catalog says, and who has replicas")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), "copycat recover rebuilds groups from the replicas in DIR, whose node must be stopped, after\n"+
			"a majority of their voters was lost for good. OTHERDIRs are those of other nodes that are\nleft: they are compared, and not changed.\n")
		flags.PrintDefaults()
	}
	dirs, err := parse(flags, args, 1, 0)
	if err != nil {
		return err
	}
	q := question{which: *which, dirs: dirs, superseded: *superseded, running: *running, over: operator.Overrule{Lesser: *force, Deleted: *deleted}}
	if *beyond != "" {
		if q.beyond, err = id.ParseIncarnation(*beyond); err != nil {
			return err
		}
	}
	cases, elsewhere, err := q.choose(ctx, out)
	if err != nil {
		return err
	}
	if len(cases) == 0 {
		fmt.Fprintln(out, "nothing to rebuild")
		return nil
	}
	if err := operator.CheckStopped(dirs[0]); err != nil {
		return err
	}
	for _, c := range cases {
		printLoss(out, c)
	}
	if !*sure {
		word := cases[0].Structure
		switch {
		case *which == "all":
			word = cases[0].Survivors[0].NodeID
			fmt.Fprintf(out, "\nTo rebuild these %d groups, type the ID of the node (%s): ", len(cases), word)
		case cases[0].Catalog:
			word = "catalog"
			fmt.Fprint(out, "\nTo rebuild it, type the word catalog: ")
		default:
			fmt.Fprint(out, "\nTo rebuild it, type the ID of the structure: ")
		}
		if err := confirm(in, word); err != nil {
			return err
		}
	}
	err = operator.Rebuild(dirs[0], cases, *reason, time.Now(), func(r operator.Record) {
		fmt.Fprintf(out, "rebuilt %s: %s is now %s, its only member replica %d on this node; the log tells of it at index %d\n",
			groupName(r.Group, r.Case.Catalog), r.From, r.To, r.Case.Survivors[0].Group.Replica, r.Index)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "recorded in %s. Start the node: its groups grow again as nodes join.\n", operator.RecordFile)
	for _, e := range elsewhere {
		fmt.Fprintf(out, "%s has replicas of %d structures that %s has none of: before you start nodes, see\n  copycat recover -structure all %s %s\n", e.Dir, e.Groups, dirs[0], e.Dir, strings.Join(without(dirs, e.Dir), " "))
	}
	return nil
}

// question is what is to be rebuilt, and what is said to it.
type question struct {
	which      string
	dirs       []string
	superseded bool
	beyond     id.Incarnation
	running    string // the directory of a node to ask; empty: none
	over       operator.Overrule
}

// choose picks what to rebuild, and shows what the survivors have of it.
func (q *question) choose(ctx context.Context, out io.Writer) ([]operator.Case, []operator.Elsewhere, error) {
	which := q.which
	if which == "" {
		return nil, nil, errors.New("which structure? -structure ID, -structure catalog, or -structure all")
	}
	if q.beyond.Birth != 0 && which == "all" {
		return nil, nil, errors.New("-beyond is about one structure: -structure ID")
	}
	all, reports, err := operator.Cases(q.dirs, q.superseded)
	if err != nil {
		return nil, nil, err
	}
	if which != "all" && which != "catalog" {
		s, err := id.ParseStructure(which)
		if err != nil {
			return nil, nil, err
		}
		which = s.String()
	}
	all = slices.DeleteFunc(all, func(c operator.Case) bool {
		return which != "all" && which != c.Structure && !(which == "catalog" && c.Catalog)
	})
	if q.running != "" {
		if err := q.ask(ctx, all); err != nil {
			return nil, nil, fmt.Errorf("-ask: %w", err)
		}
	}
	var chosen []operator.Case
	for _, c := range all {
		c.LearnLife(q.beyond)
		printCase(out, c)
		switch err := c.Check(q.over); {
		case err == nil:
			chosen = append(chosen, c)
		case which != "all":
			return nil, nil, err
		default:
			fmt.Fprintf(out, "  left alone: %v\n", err)
		}
	}
	if len(chosen) == 0 && which != "all" {
		if !q.superseded && operator.KeepsSuperseded(reports[0], which) {
			return nil, nil, fmt.Errorf("%s holds no replica of %s that is in use, and one that was superseded: -superseded rebuilds from it, if that is all there is", q.dirs[0], which)
		}
		return nil, nil, fmt.Errorf("%s holds no replica of %s", q.dirs[0], which)
	}
	return chosen, operator.NotIn(reports), nil
}

// asked is how many questions are put to a node at the same time: each waits for
// nodes that do not answer.
const asked = 32

// ask learns what the node that runs says of the cases.
func (q *question) ask(ctx context.Context, cases []operator.Case) error {
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(asked)
	for i := range cases {
		c := &cases[i]
		if c.Catalog {
			asking.Go(func() error { return c.LearnCatalog(ctx, q.running) })
			continue
		}
		asking.Go(func() error {
			fact, err := operator.Ask(ctx, q.running, c.Structure)
			if err == nil {
				c.Learn(fact)
			}
			return err
		})
	}
	return asking.Wait()
}

func without(dirs []string, dir string) []string {
	return slices.DeleteFunc(slices.Clone(dirs), func(d string) bool { return d == dir })
}

func printCase(out io.Writer, c operator.Case) {
	fmt.Fprintf(out, "\n%s@%s\n", groupName(c.Structure, c.Catalog), c.Survivors[0].Group.Incarnation)
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  NODE\tREPLICA\tKIND\tTERM\tLAST INDEX (TERM)\tCOMMIT\tCHANGES\tSNAPSHOT\tDIRECTORY")
	for i, s := range c.Survivors {
		g, kind, mark := s.Group, "-", "  "
		for _, m := range g.Members {
			if m.Replica == g.Replica && m.Voter {
				kind = "voter"
			} else if m.Replica == g.Replica {
				kind = "learner"
			}
		}
		if i == 0 {
			mark = "* "
		}
		if g.Phase == raftgroup.PhaseSuperseded {
			kind = "superseded"
		}
		if s.Unfit != "" {
			kind = "UNFIT"
		}
		snapshot := "-"
		if len(g.Snapshots) > 0 {
			snapshot = fmt.Sprintf("%d", g.Snapshots[0].Commits)
		}
		fmt.Fprintf(w, "%s%s\t%d\t%s\t%d\t%d (%d)\t%d\t%d\t%s\t%s\n", mark, s.NodeID, g.Replica, kind, g.Term, g.Last, g.LastTerm, g.Commit, g.Changes, snapshot, s.Dir)
	}
	_ = w.Flush() // errors of out show when it is closed
	for _, s := range c.Survivors {
		switch {
		case s.Unfit != "":
			fmt.Fprintf(out, "  unfit: %s: %s\n", s.Dir, s.Unfit)
		case s.Group.Incomplete != "":
			fmt.Fprintf(out, "  %s: who the members are is known as of index %d only: %s\n", s.Dir, s.Group.MembersAsOf, s.Group.Incomplete)
		}
	}
	for _, m := range c.Missing {
		runs := ""
		if slices.Contains(c.Running, m.NodeID) {
			runs = "; that node runs, and has it"
		}
		fmt.Fprintf(out, "  missing: replica %d on %s, a voter%s\n", m.Replica, m.NodeID, runs)
	}
}

// printLoss says what rebuilding may lose.
func printLoss(out io.Writer, c operator.Case) {
	g := c.Survivors[0].Group
	fmt.Fprintf(out, "\n%s would go on from index %d of replica %d.\n", groupName(c.Structure, c.Catalog), g.Last, g.Replica)
	fmt.Fprintf(out, "  Kept: the %d changes in its log. It knows that they are committed up to index %d; those behind\n", g.Changes, g.Commit)
	fmt.Fprintln(out, "  it were perhaps never acknowledged, and are committed by this.")
	if len(c.Missing) > 0 {
		fmt.Fprintln(out, "  Lost: what the missing voters acknowledged beyond that, if anything. Nobody can tell how much.")
	}
	fmt.Fprintf(out, "  Its newest entry is of %s: who got a replica later than that, it cannot tell. If the group\n", c.LastWritten().UTC().Format("2006-01-02 15:04:05Z"))
	fmt.Fprintln(out, "  has moved since, it lives elsewhere, and what was committed there is lost by this.")
	if c.Later != "" {
		fmt.Fprintf(out, "  LATER LIFE: %s. What it holds is lost by this.\n", c.Later)
	}
	if c.Ended != "" {
		fmt.Fprintf(out, "  DELETED: %s. It is ended and removed again when it reaches the catalog.\n", c.Ended)
	}
	if !c.Catalog && !c.IsKnown() {
		fmt.Fprintln(out, "  Not known: whether it was deleted, or rebuilt elsewhere, since these directories were written. If the")
		fmt.Fprintln(out, "  cluster runs, ask it: -ask with the data directory of one of its nodes.")
	}
	fmt.Fprintln(out, "  Replicas elsewhere will be set aside, and not used any more, when their nodes learn of it.")
}
