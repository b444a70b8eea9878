package sim

import (
	"math/rand/v2"
	"slices"
	"time"
)

// warmUp is how long a town is left alone at first: nodes join, and most
// structures are born.
const warmUp = 5 * time.Minute

// townSchedule lists what happens: a few things within a minute or so, then
// mostly some minutes of peace, in which all must become as it is wished.
func (p Plan) townSchedule() []fault {
	rng := rand.New(rand.NewPCG(p.Seed, 0x70f2))
	var out []fault
	at := min(warmUp, p.faulty()/4)
	for i := 0; ; {
		for range 1 + rng.IntN(4) {
			at += between(rng, 0, time.Minute)
			f := fault{number: i, at: at, seed: rng.Uint64()}
			if at >= p.faulty() {
				return out
			}
			if p.Faults == nil || slices.Contains(p.Faults, i) {
				out = append(out, f)
			}
			i++
		}
		if rng.IntN(2) == 0 {
			at += between(rng, 10*time.Second, 2*time.Minute)
		} else {
			at += between(rng, wholeBound, spreadBound+time.Minute)
		}
	}
}

// happening is something that happens in a town. It says whether it did.
type happening struct {
	name   string
	weight int
	begin  func(*town, particulars) bool
}

var happenings = []happening{
	{"join", 8, (*town).joins},
	{"leave", 7, (*town).leaves},
	{"restart", 8, func(t *town, p particulars) bool {
		return t.fells(p, t.anyone(p), between(p.rng, 200*time.Millisecond, 20*time.Second))
	}},
	{"crash, back after it was replaced", 8, func(t *town, p particulars) bool {
		return t.fells(p, t.anyone(p), between(p.rng, 90*time.Second, 12*time.Minute))
	}},
	{"death", 7, (*town).dies},
	{"directory wiped", 5, (*town).wiped},
	{"pause", 5, (*town).pauses},
	{"disk fails", 4, (*town).sickens},
	{"slow disk", 3, (*town).slows},
	{"one-way cut", 4, (*town).cutOneWay},
	{"cut", 4, (*town).cutBothWays},
	{"isolation", 5, (*town).isolates},
	{"isolation one way", 3, (*town).isolatesOneWay},
	{"data center cut off", 5, (*town).cutsCenter},
	{"partition", 4, (*town).parts},
	{"data center lost", 5, (*town).losesCenter},
	{"data center lost, back empty", 3, (*town).losesCenterForGood},
	{"most nodes lost for a while", 2, (*town).losesMost},
	{"rolling restart", 2, (*town).rolls},
	{"bad network", 4, (*town).roughens},
	{"gossip errs", 3, (*town).doubts},
	{"clock jump", 2, (*town).jumps},
	{"options altered", 5, (*town).alters},
	{"structures deleted", 4, (*town).deletes},
}

// ongoing is what ends later.
type ongoing struct {
	end  func()
	over bool
}

// last has something end after a while, or when all is to be calm.
func (t *town) last(d time.Duration, end func()) {
	o := &ongoing{end: end}
	t.open = append(slices.DeleteFunc(t.open, func(o *ongoing) bool { return o.over }), o)
	t.after(d, func() {
		if !o.over {
			o.over = true
			o.end()
		}
	})
}

// calmDown ends what still goes on.
func (t *town) calmDown() {
	for len(t.open) > 0 {
		o := t.open[0]
		t.open = t.open[1:]
		if !o.over {
			o.over = true
			o.end()
		}
	}
}

// happen begins one event: of what can be at present.
func (t *town) happen(f fault) {
	if t.over {
		return
	}
	rng := rand.New(rand.NewPCG(f.seed, uint64(f.number)))
	sum := 0
	for _, h := range happenings {
		sum += h.weight
	}
	x := rng.IntN(sum)
	for _, h := range happenings {
		if x -= h.weight; x >= 0 {
			continue
		}
		t.rec.FaultStart(h.name)
		happened := h.begin(t, particulars{rng: rng})
		if happened {
			t.faults[h.name]++
		}
		t.nodes[0].logger().Info("EVENT", "number", f.number, "what", h.name, "happened", happened)
		return
	}
}
