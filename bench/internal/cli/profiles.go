package cli

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
)

// profiles writes the profiles that were asked for, of one run's window.
type profiles struct {
	o       *options
	on      bool
	cpu     *os.File
	trace   *os.File
	started bool
	err     error
}

func (p *profiles) start() {
	if !p.on {
		return
	}
	p.started = true
	if p.o.cpuProfile != "" {
		if p.cpu = p.create(p.o.cpuProfile); p.cpu != nil {
			p.note(pprof.StartCPUProfile(p.cpu))
		}
	}
	if p.o.trace != "" {
		if p.trace = p.create(p.o.trace); p.trace != nil {
			p.note(trace.Start(p.trace))
		}
	}
}

// stop ends what start began; a second call does nothing.
func (p *profiles) stop() {
	if !p.started {
		return
	}
	p.started = false
	if p.cpu != nil {
		pprof.StopCPUProfile()
		p.note(p.cpu.Close())
	}
	if p.trace != nil {
		trace.Stop()
		p.note(p.trace.Close())
	}
	if p.o.memProfile != "" {
		runtime.GC() // what is in use is shown as of the last one
		if f := p.create(p.o.memProfile); f != nil {
			p.note(pprof.Lookup("allocs").WriteTo(f, 0))
			p.note(f.Close())
		}
	}
}

// during writes a CPU profile of f, if one was asked for.
func (p *profiles) during(file string, f func() error) error {
	if !p.on || file == "" {
		return f()
	}
	out := p.create(file)
	if out == nil {
		return f()
	}
	err := pprof.StartCPUProfile(out)
	p.note(err)
	failed := f()
	if err == nil {
		pprof.StopCPUProfile()
	}
	p.note(out.Close())
	return failed
}

func (p *profiles) create(name string) *os.File {
	f, err := os.Create(name)
	p.note(err)
	if err != nil {
		return nil
	}
	return f
}

func (p *profiles) note(err error) {
	if err != nil {
		p.err = errors.Join(p.err, fmt.Errorf("profile: %w", err))
	}
}
