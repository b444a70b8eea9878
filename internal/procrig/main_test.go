package procrig

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// long is the mode for soaks: more rounds, and pauses as long as operators see them.
var (
	long = flag.Bool("long", false, "run longer and harder: for soaks")
	most = flag.Duration("faults", 0, "how long TestMixedFaults goes on; 0: 8 s, 10 minutes with -long")
	seed = flag.Uint64("seed", 0, "the seed of all rigs; 0: a new one each time")
)

// rigs bounds how many rigs run at a time: each is three to five processes.
const rigs = 3

func TestMain(m *testing.M) {
	if code, child := Child(); child {
		os.Exit(code)
	}
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", fmt.Sprint(rigs)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if err := removeVariants(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// newSeed is the seed to use: told, or new.
func newSeed() uint64 {
	if *seed != 0 {
		return *seed
	}
	return uint64(time.Now().UnixNano())
}

// pick is short in CI and long in a soak.
func pick[T any](short, soak T) T {
	if *long {
		return soak
	}
	return short
}

// pace is the pause between two proposals of a load.
const pace = 5 * time.Millisecond

// begin makes a rig, starts all nodes, subscribes each to one structure, waits
// until it has its voters, and has all of them propose. What prepares it runs
// before the first node starts.
func begin(t *testing.T, opt Options, prepare ...func(*Rig)) (*Rig, *Structure, []*Subscription) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	if opt.Seed == 0 {
		opt.Seed = newSeed()
	}
	r := New(t, opt)
	for _, f := range prepare {
		f(r)
	}
	r.StartAll()
	s := r.Structure()
	var subs []*Subscription
	for _, n := range r.Nodes {
		subs = append(subs, n.Subscribe(s))
	}
	r.AwaitVoters(s, 3)
	for _, sub := range subs {
		sub.Load(pace)
	}
	r.More(20, subs...)
	return r, s, subs
}

// back starts a node again, with a subscription that proposes.
func back(r *Rig, n *Node, s *Structure) *Subscription {
	n.Start()
	sub := n.Subscribe(s)
	sub.Load(pace)
	r.More(20, sub)
	return sub
}

// of picks the subscriptions of some nodes.
func of(subs []*Subscription, nodes ...*Node) []*Subscription {
	var out []*Subscription
	for _, s := range subs {
		for _, n := range nodes {
			if s.Node == n {
				out = append(out, s)
			}
		}
	}
	return out
}
