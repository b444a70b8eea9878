package procrig

import (
	"time"

	"github.com/copycat-replication/copycat/internal/history"
)

// Subscription is one subscription in a node's process.
type Subscription struct {
	Node   *Node
	Of     *Structure
	number uint32
}

// Subscribe subscribes to a structure.
func (n *Node) Subscribe(s *Structure) *Subscription {
	n.rig.t.Helper()
	sub, err := n.TrySubscribe(s)
	if err != nil {
		n.rig.t.Fatalf("subscribe: %v", err)
	}
	return sub
}

// TrySubscribe is Subscribe where an error is possible.
func (n *Node) TrySubscribe(s *Structure) (*Subscription, error) {
	n.nextSub++
	sub := &Subscription{Node: n, Of: s, number: n.nextSub}
	err := n.call("subscribe", subscribeRequest{
		ID: s.ID, Padding: n.rig.opt.Padding,
		Subscriber: history.Subscriber{Structure: s.number, Node: n.Number, Process: n.lives, Number: sub.number},
	}, nil)
	if err != nil {
		return nil, err
	}
	n.subs = append(n.subs, sub)
	return sub, nil
}

// Load begins to propose in the background, one change each pause.
func (s *Subscription) Load(pause time.Duration) {
	s.Node.rig.t.Helper()
	if err := s.Node.call("load", loadRequest{Subscription: s.number, On: true, Pause: pause.String(), Size: s.Node.rig.opt.Size, Registers: s.Node.rig.opt.Registers}, nil); err != nil {
		s.Node.rig.t.Fatal(err)
	}
}

// Unload ends that.
func (s *Subscription) Unload() error {
	return s.Node.call("load", loadRequest{Subscription: s.number}, nil)
}

// Propose sends n changes.
func (s *Subscription) Propose(n int) error {
	return s.Node.call("propose", proposeRequest{Subscription: s.number, Count: n, Size: s.Node.rig.opt.Size}, nil)
}

// State asks how the subscription does.
func (s *Subscription) State() (SubscriptionState, error) {
	var st SubscriptionState
	err := s.Node.call("state", numberRequest{s.number}, &st)
	return st, err
}

// Unsubscribe closes the propose channel, and waits until the subscription has
// ended.
func (s *Subscription) Unsubscribe() {
	s.Node.rig.t.Helper()
	if err := s.Node.call("unsubscribe", numberRequest{s.number}, nil); err != nil {
		s.Node.rig.t.Fatal(err)
	}
	subs := s.Node.subs
	for i, o := range subs {
		if o == s {
			s.Node.subs = append(subs[:i:i], subs[i+1:]...)
		}
	}
}
