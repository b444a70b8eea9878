package procrig

import (
	"strings"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/internal/history"
	"github.com/copycat-replication/copycat/internal/netproxy"
)

// sessionLife is how long a session lives without its node in these tests: a
// minute in real life, which -long waits for.
const sessionLife = 4 * time.Second

// shortSessions has all nodes run with sessions that end soon.
func shortSessions(t *testing.T) func(*Rig) {
	if *long {
		return func(*Rig) {}
	}
	binary := minor.must(t)
	return func(r *Rig) {
		for _, n := range r.Nodes {
			n.Binary, n.Env = binary, []string{sessionVariable + "=" + sessionLife.String()}
		}
	}
}

// awaitSessions waits until every node shows the sessions of all: what a node
// shows is a tick old, and an old one looks like an expiry.
func awaitSessions(r *Rig, s *Structure) {
	r.t.Helper()
	r.Wait(2*time.Minute, "all sessions are seen everywhere", func() (bool, string) {
		for _, n := range r.Nodes {
			st, err := n.Status()
			if err != nil {
				return false, err.Error()
			}
			if x, _ := st.Structure(s.ID); x.Sessions != len(r.Nodes) {
				return false, "not all"
			}
		}
		return true, ""
	})
}

// awaitExpiry waits until the others have ended the session of the victim's
// subscription, which was the only one of its node.
func awaitExpiry(r *Rig, s *Structure, victim *Node) {
	r.t.Helper()
	r.Wait(3*time.Minute, "its session is ended", func() (bool, string) {
		for _, n := range r.Others(victim) {
			st, err := n.Status()
			if err != nil {
				return false, err.Error()
			}
			if x, _ := st.Structure(s.ID); x.Sessions != len(r.Nodes)-1 {
				return false, "sessions are alive"
			}
		}
		return true, ""
	})
}

// ends tells how often a subscription was told that its session has ended.
func ends(r *Rig, sub *Subscription) (n int) {
	r.t.Helper()
	st, err := sub.State()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range st.Notices {
		if strings.Contains(e, "session was ended") && strings.Contains(e, sub.Of.ID) {
			n++
		}
	}
	return n
}

// hearsOfItsEnd waits until the subscription was told once more that its
// session has ended, and goes on.
func hearsOfItsEnd(r *Rig, sub *Subscription, before int) {
	r.t.Helper()
	r.Wait(2*time.Minute, "it hears that its session has ended", func() (bool, string) {
		return ends(r, sub) == before+1, "not yet"
	})
	r.More(100, sub)
}

// knowsAll wants no proposal of unknown fate in the history.
func knowsAll(t *testing.T, report *history.Report, rounds int) {
	t.Helper()
	if n := report.Stats.Reported[history.FateUnknown]; n > 0 {
		t.Errorf("%d proposals have an unknown fate", n)
	}
	t.Logf("%d proposals were reported as never committed, in %d rounds", report.Stats.Reported[history.FateNever], rounds)
}

// TestStopLongerThanASession stops a proposer's process, a follower's and then
// the leader's, for longer than its session lives. When it wakes up it is told
// so, knows exactly what counted (the history is checked), and goes on in a new
// session.
func TestStopLongerThanASession(t *testing.T) {
	r, s, subs := begin(t, Options{}, shortSessions(t))
	for _, lead := range []bool{false, true} {
		victim := r.Leader(s)
		if !lead {
			victim = r.Others(victim)[0]
		}
		own, rest := of(subs, victim), of(subs, r.Others(victim)...)
		before := ends(r, own[0])
		awaitSessions(r, s)
		victim.Stop()
		awaitExpiry(r, s, victim)
		r.More(50, rest...)
		victim.Continue()
		hearsOfItsEnd(r, own[0], before)
		r.More(50, subs...)
	}
	knowsAll(t, finish(t, r), 2)
}

// TestSlowProposerExpires cuts off only the network of a proposer's node, for
// longer than its session lives; its process goes on and proposes all the time.
func TestSlowProposerExpires(t *testing.T) {
	r, s, subs := begin(t, Options{}, shortSessions(t))
	victim := r.Others(r.Leader(s))[0]
	own, rest := of(subs, victim), of(subs, r.Others(victim)...)
	awaitSessions(r, s)
	mended := r.Fault("node %d is cut off for longer than a session lives", victim.Number)
	r.Net.Isolate(netproxy.Node(victim.Number))
	awaitExpiry(r, s, victim)
	r.More(50, rest...)
	if st, err := own[0].State(); err != nil || st.Open == 0 {
		t.Errorf("nothing waits on the node that is cut off: %+v, %v", st, err)
	}
	r.Net.Heal()
	mended()
	hearsOfItsEnd(r, own[0], 0)
	r.More(50, subs...)
	knowsAll(t, finish(t, r), 1)
}
