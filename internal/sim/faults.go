package sim

import (
	"time"

	"github.com/copycat-replication/copycat/internal/vfs"
)

// faultLater begins one fault after the other until the run is quiet. Most of
// them end by themselves.
func (s *Sim) faultLater() {
	s.after(s.between(50*time.Millisecond, 1500*time.Millisecond), func() {
		if s.quiet {
			return
		}
		s.fault()
		s.faultLater()
	})
}

// fault draws and begins one fault.
func (s *Sim) fault() {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	other := s.nodes[s.rng.IntN(len(s.nodes))]
	lasts := s.between(100*time.Millisecond, 8*time.Second)
	kinds := []struct {
		name  string
		begin func() func() // what ends it; nil: by itself, or never
	}{
		{"crash", func() func() { n.crash(); return s.restart(n) }},
		{"crash amid an operation", func() func() {
			if n.up {
				n.crashAmid()
			}
			return s.restart(n)
		}},
		{"pause", func() func() {
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
		{"one-way cut", func() func() { return s.cut([2]int{n.number, other.number}) }},
		{"cut", func() func() { return s.cut([2]int{n.number, other.number}, [2]int{other.number, n.number}) }},
		{"isolation", func() func() { return s.isolate(n) }},
		{"loss", func() func() {
			s.net.loss, s.net.double = 0.3*s.rng.Float64(), 0.1
			return func() { s.net.loss, s.net.double = 0, 0 }
		}},
		{"slow network", func() func() {
			s.net.slowest = s.between(20*time.Millisecond, 400*time.Millisecond)
			return func() { s.net.slowest = 5 * time.Millisecond }
		}},
		{"slow disk", func() func() {
			n.diskDelay = s.between(50*time.Millisecond, time.Second)
			return func() { n.diskDelay = time.Millisecond }
		}},
		{"failed fsync", func() func() { return s.failSync(n) }},
		{"full disk", func() func() { return s.fill(n) }},
		// No fault, but what lets groups fall quiet under all the others.
		{"silence", func() func() {
			g := s.groups[s.rng.IntN(len(s.groups))]
			s.silent[g]++
			return func() { s.silent[g]-- }
		}},
		{"clock jump", func() func() {
			n.clock = s.between(-time.Hour, time.Hour)
			return func() { n.clock = 0 }
		}},
	}
	k := kinds[s.rng.IntN(len(kinds))]
	s.faults[k.name]++
	s.rec.FaultStart(k.name)
	if end := k.begin(); end != nil {
		s.after(lasts, func() {
			end()
			s.rec.FaultStop(k.name)
		})
	}
}

// restart is the end of a crash.
func (s *Sim) restart(n *node) func() {
	return func() {
		if n.up && n.after == nil {
			n.crash() // it was armed and has not come, or somebody else's has been mended
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
func (s *Sim) fill(n *node) func() {
	if !n.up {
		return nil
	}
	disk := n.fs
	disk.SetCapacity(disk.Used() + int64(s.rng.IntN(64<<10)))
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
			n.crash()
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
