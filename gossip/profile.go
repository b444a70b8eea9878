package gossip

import (
	"time"

	"github.com/hashicorp/memberlist"
)

// timing is what a profile stands for, beyond memberlist's own settings.
type timing struct {
	tick   time.Duration // how often the loop looks for overdue requests and lists to drop
	retry  time.Duration // between requests for the same list: a round trip and a page
	settle time.Duration // for deltas that overtake each other: some gossip intervals
	// remind is how often a few peers are told how far the lists reach that
	// changed in the last remindFor: about as long as push/pulls take to come
	// round to everyone.
	remind, remindFor time.Duration
	contact           time.Duration // to reach one peer and exchange states
	rejoin            time.Duration // between attempts to reach lost peers, ± a quarter
	pause             time.Duration // between rounds of Join over all peers, ± a quarter
	// keep is how long dead nodes are listed and lists of dead nodes and of
	// older incarnations are kept.
	keep time.Duration
	// forget is how long the address of a lost node is retried and remembered.
	forget time.Duration
	// reclaim is how long a node must be dead before its ID may come back from
	// another address. The ID is in a locked data directory, so there is nobody
	// to protect: the time only outlives gossip that is still in flight.
	reclaim time.Duration
	leave   time.Duration // at most, to get the word out that this node leaves
}

func (p Profile) timing() timing {
	switch p {
	case WAN:
		return timing{
			tick: time.Second, retry: 10 * time.Second, settle: 2 * time.Second, remind: time.Second, remindFor: 2 * time.Minute, contact: 30 * time.Second, rejoin: 30 * time.Second, pause: 2 * time.Second,
			keep: 30 * time.Minute, forget: 7 * 24 * time.Hour, leave: 10 * time.Second, reclaim: 10 * time.Second,
		}
	case Local:
		return timing{
			tick: 50 * time.Millisecond, retry: 500 * time.Millisecond, settle: 100 * time.Millisecond, remind: 200 * time.Millisecond, remindFor: 4 * time.Second, contact: 2 * time.Second, rejoin: 500 * time.Millisecond,
			pause: 100 * time.Millisecond, keep: time.Minute, forget: time.Hour, leave: 2 * time.Second, reclaim: 100 * time.Millisecond,
		}
	}
	return timing{
		tick: 200 * time.Millisecond, retry: 2 * time.Second, settle: 600 * time.Millisecond, remind: time.Second, remindFor: time.Minute, contact: 10 * time.Second, rejoin: 15 * time.Second, pause: time.Second,
		keep: 10 * time.Minute, forget: 7 * 24 * time.Hour, leave: 5 * time.Second, reclaim: 5 * time.Second,
	}
}

// memberlist returns memberlist's settings for the profile: its own presets,
// with the changes that follow from how we use it.
func (p Profile) memberlist() *memberlist.Config {
	var c *memberlist.Config
	switch p {
	case WAN:
		c = memberlist.DefaultWANConfig()
	case Local:
		// Detection in about 1 s: probe interval × (1 + SuspicionMult).
		c = memberlist.DefaultLocalConfig()
		c.AwarenessMaxMultiplier = 4
		c.SuspicionMaxTimeoutMult = 4 // a node that is alone gives the others up within 3 s
		c.RetransmitMult = 4          // with 2 and three nodes, news often miss one of them
		c.ProbeInterval = 250 * time.Millisecond
		c.ProbeTimeout = 125 * time.Millisecond
		c.GossipInterval = 20 * time.Millisecond
		c.PushPullInterval = time.Second
		c.GossipToTheDeadTime = 2 * time.Second
	default:
		c = memberlist.DefaultLANConfig()
	}
	c.DeadNodeReclaimTime = p.timing().reclaim
	c.Label = label
	// IDs are random: compressing them costs CPU and saves nothing.
	c.EnableCompression = false
	return c
}

// label marks our packets and streams, so that another program's memberlist
// that is pointed at our port is refused at once.
const label = "copycat"
