package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// particulars are those of one fault, from a source of its own: they do not
// depend on what else happens.
type particulars struct {
	rng   *rand.Rand
	n     *node
	other *node
	lasts time.Duration
}

// faultKind is a fault: what begins one, and returns what ends it. Nil: it ends
// by itself, or never, or there was nothing to break.
type faultKind struct {
	name  string
	begin func(*Sim, particulars) func()
}

// kinds are the faults.
var kinds = []faultKind{
	{"crash", func(s *Sim, p particulars) func() { p.n.crash(p.rng); return s.restart(p.n) }},
	{"crash amid an operation", func(s *Sim, p particulars) func() {
		if p.n.up {
			p.n.crashAmid(p.rng)
		}
		return s.restart(p.n)
	}},
	{"pause", func(_ *Sim, p particulars) func() {
		n := p.n
		if !n.up || n.paused {
			return nil
		}
		life := n.life
		n.pause()
		return func() {
			if n.up && n.life == life && n.paused {
				n.resume()
				n.work()
			}
		}
	}},
	{"one-way cut", func(s *Sim, p particulars) func() { return s.cut([2]int{p.n.number, p.other.number}) }},
	{"cut", func(s *Sim, p particulars) func() {
		return s.cut([2]int{p.n.number, p.other.number}, [2]int{p.other.number, p.n.number})
	}},
	{"isolation", func(s *Sim, p particulars) func() { return s.isolate(p.n) }},
	{"loss", func(s *Sim, p particulars) func() {
		s.net.loss, s.net.double = 0.3*p.rng.Float64(), 0.1
		return func() { s.net.loss, s.net.double = 0, 0 }
	}},
	{"slow network", func(s *Sim, p particulars) func() {
		s.net.slowest = between(p.rng, 20*time.Millisecond, 400*time.Millisecond)
		return func() { s.net.slowest = 5 * time.Millisecond }
	}},
	{"slow disk", func(_ *Sim, p particulars) func() {
		p.n.diskDelay = between(p.rng, 50*time.Millisecond, time.Second)
		return func() { p.n.diskDelay = time.Millisecond }
	}},
	{"failed fsync", func(s *Sim, p particulars) func() { return s.failSync(p.n) }},
	{"full disk", func(s *Sim, p particulars) func() { return s.fill(p) }},
	{"flip in the log", func(s *Sim, p particulars) func() { return s.flip(p, s.flipLog) }},
	{"flip in a snapshot", func(s *Sim, p particulars) func() { return s.flip(p, s.flipSnapshot) }},
	{"flip in the cold store", func(s *Sim, p particulars) func() { return s.flip(p, s.flipCold) }},
	// No fault, but what lets groups fall quiet under all the others.
	{"silence", func(s *Sim, p particulars) func() {
		st := &s.structures[p.rng.IntN(len(s.structures))]
		st.silent++
		return func() { st.silent-- }
	}},
	{"false refusal", func(s *Sim, p particulars) func() {
		for _, o := range s.nodes { // a node that all others, or one of them, take for gone
			if o == p.other || p.rng.IntN(2) == 0 {
				o.hearRefusal(p.n)
			}
		}
		return nil
	}},
	{"clock jump", func(_ *Sim, p particulars) func() {
		p.n.clock = between(p.rng, -time.Hour, time.Hour)
		return func() { p.n.clock = 0 }
	}},
}

// isKind reports whether there are faults of that name.
func isKind(name string) bool {
	return slices.ContainsFunc(kinds, func(k faultKind) bool { return k.name == name })
}

// fault begins one fault.
func (s *Sim) fault(f fault) {
	if s.quiet {
		return
	}
	rng := rand.New(rand.NewPCG(f.seed, uint64(f.number)))
	p := particulars{rng: rng, n: s.nodes[rng.IntN(len(s.nodes))], other: s.nodes[rng.IntN(len(s.nodes))]}
	p.lasts = between(rng, 100*time.Millisecond, 8*time.Second)
	k := kinds[rng.IntN(len(kinds))]
	if i := slices.IndexFunc(kinds, func(k faultKind) bool { return k.name == s.plan.Kind }); i >= 0 {
		k = kinds[i]
	}
	s.faults[k.name]++
	s.rec.FaultStart(k.name)
	if end := k.begin(s, p); end != nil {
		s.after(p.lasts, func() {
			if s.quiet {
				return // calm has ended it
			}
			end()
			s.rec.FaultStop(k.name)
		})
	}
}

// restart is the end of a crash.
func (s *Sim) restart(n *node) func() {
	return func() {
		if n.up && n.after == nil {
			n.crash(n.s.rng) // it was armed and has not come, or somebody else's has been mended
		}
		if !n.up {
			s.must(n.start())
		}
	}
}

func (s *Sim) cut(links ...[2]int) func() {
	for _, l := range links {
		s.net.cut[l] = true
	}
	return func() {
		for _, l := range links {
			delete(s.net.cut, l)
		}
	}
}

func (s *Sim) isolate(n *node) func() {
	var links [][2]int
	for _, o := range s.nodes {
		if o != n {
			links = append(links, [2]int{n.number, o.number}, [2]int{o.number, n.number})
		}
	}
	return s.cut(links...)
}

// failSync fails one sync: the log must not acknowledge anything any more, so
// the process is of no use until it is started again.
func (s *Sim) failSync(n *node) func() {
	if !n.up {
		return nil
	}
	failed := false
	n.fs.SetFault(func(op vfs.Op, _ string, _, _ int64) error {
		if op == vfs.OpSync && !failed {
			failed = true
			return errSync
		}
		return nil
	})
	return s.restart(n)
}

// fill leaves little room on a disk.
func (s *Sim) fill(p particulars) func() {
	n := p.n
	if !n.up {
		return nil
	}
	disk := n.fs
	disk.SetCapacity(disk.Used() + int64(p.rng.IntN(64<<10)))
	return func() { disk.SetCapacity(0); n.fs.SetCapacity(0) }
}

// calm ends all faults, and starts again what does not run.
func (s *Sim) calm() error {
	s.net.calm()
	for _, n := range s.nodes {
		if n.paused {
			n.resume()
		}
		n.clock, n.diskDelay = 0, time.Millisecond
		n.fs.SetCapacity(0)
		n.fs.SetFault(nil)
		if n.up && (n.after != nil || n.broken()) {
			n.crash(s.rng)
		}
		if !n.up {
			n.fs.SetCapacity(0)
			n.fs.SetFault(nil)
			if err := n.start(); err != nil {
				return err
			}
		}
	}
	s.rec.Calm()
	return nil
}

// broken reports whether a replica of the process has stopped.
func (n *node) broken() bool {
	for _, g := range n.host.Groups() {
		if g.Failed {
			return true
		}
	}
	return n.log.Health() != nil
}
