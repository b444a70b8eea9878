package history

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// clone copies a history so that a violation can be planted into it.
func (h *History) clone() *History {
	c := &History{Nodes: cloneEvents(h.Nodes)}
	for _, l := range h.Logs {
		c.Logs = append(c.Logs, Log{Sub: l.Sub, Events: cloneEvents(l.Events)})
	}
	return c
}

func cloneEvents(events []Event) []Event {
	out := slices.Clone(events)
	for i := range out {
		if out[i].Extra != nil {
			x := *out[i].Extra
			out[i].Extra = &x
		}
	}
	return out
}

// planter works on structure 1 of a correct history.
type planter struct {
	h     *History
	rng   *rand.Rand
	order []ID
	base  int
	live  map[Subscriber]bool
}

// swap exchanges IDs wherever somebody has them in a state: everybody still
// agrees, but on another order.
func (p *planter) swap(f func(ID) ID) {
	each := func(events []Event) {
		for i := range events {
			e := &events[i]
			if e.Kind == KindDelivered {
				e.ID = f(e.ID)
			}
			if fold := e.fold(); fold != nil {
				ids := slices.Clone(fold.IDs)
				for k := range ids {
					ids[k] = f(ids[k])
				}
				e.Extra.Fold = NewFold(ids)
			}
		}
	}
	for i := range p.h.Logs {
		each(p.h.Logs[i].Events)
	}
	each(p.h.Nodes)
}

func one(from, to ID) func(ID) ID {
	return func(id ID) ID {
		if id == from {
			return to
		}
		return id
	}
}

// pick picks an event of a kind in the logs of structure 1 that are ok.
func (p *planter) pick(ok func(l *Log) bool, kind Kind, want func(l *Log, i int) bool) (*Log, int) {
	type choice struct {
		l *Log
		i int
	}
	var all []choice
	for k := range p.h.Logs {
		l := &p.h.Logs[k]
		if l.Sub.Structure != 1 || (ok != nil && !ok(l)) {
			continue
		}
		for i := range l.Events {
			if l.Events[i].Kind == kind && (want == nil || want(l, i)) {
				all = append(all, choice{l, i})
			}
		}
	}
	if len(all) == 0 {
		return nil, 0
	}
	c := all[p.rng.IntN(len(all))]
	return c.l, c.i
}

func (p *planter) survivor(l *Log) bool { return p.live[l.Sub] }

// afterLoads: the final state of a log came from this event, among others.
func afterLoads(l *Log, i int) bool {
	return !slices.ContainsFunc(l.Events[i:], func(e Event) bool { return e.Kind == KindLoaded })
}

func (p *planter) commit() ID { return p.order[p.base+p.rng.IntN(len(p.order)-p.base)] }

// proposal returns the event of structure 1 that proposed an ID.
func (p *planter) proposal(id ID) (*Log, int) {
	return p.pick(nil, KindProposed, func(l *Log, i int) bool { return l.Events[i].ID == id })
}

func remove(l *Log, i int) { l.Events = slices.Delete(l.Events, i, i+1) }

func noN(l *Log) {
	for i := range l.Events {
		l.Events[i].N = 0
	}
}

// plants: each breaks one rule, and says whether the history had a place for it.
var plants = []struct {
	name  string
	rule  Rule
	plant func(p *planter) bool
}{
	{"two neighbours change places at one subscriber", RuleOrder, func(p *planter) bool {
		l, i := p.pick(nil, KindDelivered, func(l *Log, i int) bool {
			return i+1 < len(l.Events) && l.Events[i+1].Kind == KindDelivered
		})
		if l != nil {
			l.Events[i].ID, l.Events[i+1].ID = l.Events[i+1].ID, l.Events[i].ID
		}
		return l != nil
	}},
	{"one subscriber misses one", RuleOrder, func(p *planter) bool {
		l, i := p.pick(nil, KindDelivered, func(l *Log, i int) bool {
			return i+1 < len(l.Events) && l.Events[i+1].Kind == KindDelivered
		})
		if l != nil {
			remove(l, i)
			noN(l)
		}
		return l != nil
	}},
	{"a number is off by one", RuleOrder, func(p *planter) bool {
		l, i := p.pick(nil, KindDelivered, func(l *Log, i int) bool { return l.Events[i].N > 0 })
		if l != nil {
			l.Events[i].N++
		}
		return l != nil
	}},
	{"a load misses one", RuleLoad, func(p *planter) bool {
		l, i := p.pick(nil, KindLoaded, func(l *Log, i int) bool { return len(l.Events[i].Fold.IDs) > 1 })
		if l != nil {
			ids := slices.Clone(l.Events[i].Fold.IDs)
			at := p.rng.IntN(len(ids) - 1)
			l.Events[i].Fold = NewFold(slices.Delete(ids, at, at+1))
		}
		return l != nil
	}},
	{"the loser of two bases keeps its own", RuleLoad, func(p *planter) bool {
		l, i := p.pick(func(l *Log) bool {
			return slices.ContainsFunc(l.Events, func(e Event) bool { return e.Kind == KindBased })
		},
			KindLoaded, func(l *Log, i int) bool {
				next := slices.IndexFunc(l.Events[i+1:], func(e Event) bool { return e.Kind == KindDelivered || e.Kind == KindLoaded })
				return l.Events[i-1].Kind == KindMade && l.Events[i-2].Kind == KindBased && next >= 0 && l.Events[i+1+next].Kind == KindDelivered
			})
		if l != nil {
			remove(l, i)
		}
		return l != nil
	}},
	{"two of one writer change places everywhere", RuleFIFO, func(p *planter) bool {
		a := p.commit()
		for _, b := range p.order[slices.Index(p.order, a)+1:] {
			if b.Writer == a.Writer {
				p.swap(func(id ID) ID {
					switch id {
					case a:
						return b
					case b:
						return a
					}
					return id
				})
				return true
			}
		}
		return false
	}},
	{"one subscriber gets one twice", RuleTwice, func(p *planter) bool {
		l, i := p.pick(nil, KindDelivered, nil)
		again := l.Events[i]
		again.N = 0
		l.Events = slices.Insert(l.Events, i+1, again)
		noN(l)
		return true
	}},
	{"a commit of a loaded snapshot comes again after a restart", RuleTwice, func(p *planter) bool {
		l, i := p.pick(nil, KindLoaded, func(l *Log, i int) bool { return len(l.Events[i].Fold.IDs) > p.base })
		if l == nil {
			return false
		}
		ids := l.Events[i].Fold.IDs
		l.Events = slices.Insert(l.Events, i+1, Event{At: l.Events[i].At, Kind: KindDelivered, ID: ids[len(ids)-1]})
		noN(l)
		return true
	}},
	{"everybody gets one twice", RuleTwice, func(p *planter) bool {
		a := p.commit()
		at := slices.Index(p.order, a)
		if at+1 == len(p.order) {
			return false
		}
		p.swap(one(p.order[at+1], a))
		return true
	}},
	{"a snapshot holds one twice", RuleTwice, func(p *planter) bool {
		l, i := p.pick(nil, KindLoaded, func(l *Log, i int) bool { return len(l.Events[i].Fold.IDs) > p.base })
		if l != nil {
			ids := l.Events[i].Fold.IDs
			l.Events[i].Fold = NewFold(append(slices.Clone(ids), ids[len(ids)-1]))
		}
		return l != nil
	}},
	{"everybody gets what nobody proposed", RuleUnproposed, func(p *planter) bool {
		p.swap(one(p.commit(), ID{Subscriber{1, 99, 1, 1}.Writer(), 7}))
		return true
	}},
	{"a commit of another structure", RuleUnproposed, func(p *planter) bool {
		for i := range p.h.Logs {
			l := &p.h.Logs[i]
			if k := slices.IndexFunc(l.Events, func(e Event) bool { return e.Kind == KindProposed }); l.Sub.Structure == 2 && k >= 0 {
				p.swap(one(p.commit(), l.Events[k].ID))
				return true
			}
		}
		return false
	}},
	{"one subscriber gets a stranger at the end", RuleUnproposed, func(p *planter) bool {
		l, _ := p.pick(p.survivor, KindOpened, nil)
		l.Events = append(l.Events, Event{At: l.Events[len(l.Events)-1].At, Kind: KindDelivered, ID: ID{l.Sub.Writer(), 1 << 40}})
		return true
	}},
	{"bytes that nobody made", RuleUnproposed, func(p *planter) bool {
		l, i := p.pick(nil, KindDelivered, nil)
		l.Events[i].ID, l.Events[i].Extra = ID{}, &Extra{Text: "flipped"}
		return true
	}},
	{"a survivor ends early", RuleLost, func(p *planter) bool {
		l, i := p.pick(p.survivor, KindDelivered, afterLoads)
		cut(l, i)
		return true
	}},
	{"what only a crashed subscriber was delivered", RuleLost, func(p *planter) bool {
		l, i := p.pick(func(l *Log) bool { return !p.live[l.Sub] }, KindProposed, func(l *Log, i int) bool {
			return !slices.Contains(p.order, l.Events[i].ID) && !slices.ContainsFunc(l.Events, func(e Event) bool {
				return e.Kind == KindReported && e.ID == l.Events[i].ID
			})
		})
		if l != nil { // acknowledged, and then not on the disks of a majority
			l.Events = append(l.Events, Event{At: l.Events[len(l.Events)-1].At, Kind: KindDelivered, ID: l.Events[i].ID})
		}
		return l != nil
	}},
	{"a survivor loads an old snapshot at the end", RuleLost, func(p *planter) bool {
		l, _ := p.pick(p.survivor, KindOpened, nil)
		l.Events = append(l.Events, Event{At: l.Events[len(l.Events)-1].At, Kind: KindLoaded, Extra: &Extra{Fold: NewFold(p.order[:p.base+1])}})
		return true
	}},
	{"a stored snapshot's label is off by one", RuleSnapshot, func(p *planter) bool {
		return p.stored(func(e *Event) { e.N += uint64(2*p.rng.IntN(2)) - 1 })
	}},
	{"a stored snapshot misses one in the middle", RuleSnapshot, func(p *planter) bool {
		return p.stored(func(e *Event) {
			ids := slices.Clone(e.Fold.IDs)
			ids[p.rng.IntN(len(ids))] = ID{1, 1 << 50}
			e.Fold = NewFold(ids)
		})
	}},
	{"a stored snapshot cannot be read", RuleSnapshot, func(p *planter) bool {
		return p.stored(func(e *Event) { e.Fold, e.Text = nil, "checksum" })
	}},
	{"a loaded snapshot cannot be read", RuleSnapshot, func(p *planter) bool {
		l, i := p.pick(nil, KindLoaded, nil)
		if l != nil {
			l.Events[i].Extra = &Extra{Text: "checksum"}
		}
		return l != nil
	}},
	{"a provider makes what it does not hold", RuleSnapshot, func(p *planter) bool {
		l, i := p.pick(nil, KindMade, func(l *Log, i int) bool { return len(l.Events[i].Fold.IDs) > 0 })
		if l != nil {
			ids := l.Events[i].Fold.IDs
			l.Events[i].Fold = NewFold(ids[:len(ids)-1])
		}
		return l != nil
	}},
	{"a commit was reported as never committed", RuleReport, func(p *planter) bool { return p.reported(FateNever) }},
	{"a commit was reported as expired", RuleReport, func(p *planter) bool { return p.reported(FateExpired) }},
	{"a commit was reported as refused", RuleReport, func(p *planter) bool { return p.reported(FateRefused) }},
	{"two errors about one proposal", RuleReport, func(p *planter) bool {
		l, i := p.pick(nil, KindReported, nil)
		if l != nil {
			l.Events = append(l.Events, l.Events[i])
		}
		return l != nil
	}},
	{"an error about somebody else's proposal", RuleReport, func(p *planter) bool {
		a := p.commit()
		l, _ := p.pick(func(l *Log) bool { return l.Sub.Writer() != a.Writer }, KindOpened, nil)
		l.Events = append(l.Events, Event{At: l.Events[len(l.Events)-1].At, Kind: KindReported, ID: a, Fate: FateUnknown})
		return true
	}},
	{"a survivor never hears of a proposal", RuleUnaccounted, func(p *planter) bool {
		l, _ := p.pick(p.survivor, KindProposed, nil)
		p.silent(l)
		return true
	}},
	{"who unsubscribes never hears of a proposal", RuleUnaccounted, func(p *planter) bool {
		l, _ := p.pick(nil, KindClosed, nil)
		if l != nil {
			p.silent(l)
		}
		return l != nil
	}},
	{"who is cut short never hears of a proposal", RuleUnaccounted, func(p *planter) bool {
		l, i := p.pick(nil, KindClosed, nil)
		if l != nil {
			p.silent(l)
			l.Events[i+1].Close = CutShort
		}
		return l != nil
	}},
	{"an error of a survivor is not read", RuleUnaccounted, func(p *planter) bool {
		l, i := p.pick(p.survivor, KindReported, func(l *Log, i int) bool { return !slices.Contains(p.order, l.Events[i].ID) })
		if l != nil {
			remove(l, i)
		}
		return l != nil
	}},
	{"a survivor lags for ever", RuleConvergence, func(p *planter) bool {
		l, i := p.pick(p.survivor, KindDelivered, afterLoads)
		cut(l, i)
		return true
	}},
	{"a survivor ends with one more", RuleConvergence, func(p *planter) bool {
		l, _ := p.pick(p.survivor, KindOpened, nil)
		l.Events = append(l.Events, Event{At: l.Events[len(l.Events)-1].At, Kind: KindDelivered, ID: p.commit()})
		return true
	}},
	{"a proposal after the faults takes too long", RuleLiveness, func(p *planter) bool {
		l, i := p.late()
		l.Events[i].At -= int64(bound) + l.Events[i].At - p.calm()
		for k := range p.h.Nodes {
			if p.h.Nodes[k].Kind == KindCalm {
				p.h.Nodes[k].At -= int64(bound)
			}
		}
		return true
	}},
	{"a proposal long after the faults is reported", RuleLiveness, func(p *planter) bool {
		l, _ := p.late()
		p.silent(l)
		at := p.calm() + int64(bound) + 1
		l.Events[len(l.Events)-1].At = at
		l.Events = append(l.Events, Event{At: at, Kind: KindReported, ID: l.Events[len(l.Events)-1].ID, Fate: FateNever})
		return true
	}},
	{"a proposal after the faults never comes back", RuleLiveness, func(p *planter) bool {
		l, _ := p.late()
		p.silent(l)
		l.Events[len(l.Events)-1].At = p.calm()
		return true
	}},
	{"a proposal is recorded twice", RuleRecording, func(p *planter) bool {
		l, i := p.pick(nil, KindProposed, nil)
		l.Events = slices.Insert(l.Events, i, l.Events[i])
		return true
	}},
	{"an error without a fate", RuleRecording, func(p *planter) bool {
		l, i := p.pick(nil, KindReported, nil)
		if l != nil {
			l.Events[i].Fate = FateNone
		}
		return l != nil
	}},
}

// cut takes all deliveries away from the i-th event on.
func cut(l *Log, i int) {
	rest := slices.DeleteFunc(slices.Clone(l.Events[i:]), func(e Event) bool { return e.Kind == KindDelivered || e.Kind == KindRead })
	l.Events = append(l.Events[:i:i], rest...)
}

func (p *planter) stored(change func(e *Event)) bool {
	for i := range p.h.Nodes {
		if e := &p.h.Nodes[i]; e.Kind == KindStored && e.Structure == 1 {
			change(e)
			return true
		}
	}
	return false
}

func (p *planter) reported(fate Fate) bool {
	id := p.commit()
	l, i := p.proposal(id)
	l.Events = slices.DeleteFunc(l.Events, func(e Event) bool { return e.Kind == KindReported && e.ID == id })
	l.Events = slices.Insert(l.Events, i+1, Event{At: l.Events[i].At, Kind: KindReported, ID: id, Fate: fate})
	return true
}

// silent adds a proposal of which nothing is heard.
func (p *planter) silent(l *Log) {
	seq := uint64(1)
	for _, e := range l.Events {
		if e.Kind == KindProposed {
			seq = e.ID.Seq + 1
		}
	}
	at := slices.IndexFunc(l.Events, func(e Event) bool { return e.Kind == KindClosed })
	if at < 0 {
		at = len(l.Events)
	}
	l.Events = slices.Insert(l.Events, at, Event{At: l.Events[at-1].At, Kind: KindProposed, ID: ID{l.Sub.Writer(), seq}})
}

func (p *planter) calm() int64 {
	at, _ := p.h.last(KindCalm)
	return at
}

// late picks a proposal of a survivor after the faults.
func (p *planter) late() (*Log, int) {
	at := p.calm()
	return p.pick(p.survivor, KindProposed, func(l *Log, i int) bool { return l.Events[i].At >= at })
}

func TestPlantedViolationsAreCaught(t *testing.T) {
	t.Parallel()
	const seeds = 24
	type good struct {
		h     *History
		order []ID
	}
	var goods []good
	for seed := range uint64(seeds) {
		h := correct(t, seed, nil)
		report := Check(h, checked)
		if err := report.Err(); err != nil {
			t.Fatalf("seed %d, nothing planted: %v", seed, err)
		}
		goods = append(goods, good{h, report.Order(1)})
	}
	for _, plant := range plants {
		t.Run(strings.ReplaceAll(plant.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			planted := 0
			for seed, g := range goods {
				p := &planter{h: g.h.clone(), rng: rand.New(rand.NewPCG(uint64(seed), 9)), order: g.order, live: g.h.survivors()}
				for p.order[p.base].IsBase() {
					p.base++
				}
				if !plant.plant(p) {
					continue
				}
				planted++
				bad := Check(p.h, checked)
				if !slices.ContainsFunc(bad.Violations, func(v Violation) bool { return v.Rule == plant.rule }) {
					t.Fatalf("seed %d: not caught; the checker found %v", seed, bad.Err())
				}
				if slices.ContainsFunc(bad.Violations, func(v Violation) bool { return v.Structure != 1 || v.What == "" }) {
					t.Fatalf("seed %d: structure 2 is accused as well, or of nothing: %v", seed, bad.Err())
				}
				if planted > 1 {
					continue
				}
				t.Log(bad.Err())
				if again := Check(p.h.clone(), checked); again.Err().Error() != bad.Err().Error() {
					t.Fatalf("seed %d: two checks, two reports:\n%v\n%v", seed, bad.Err(), again.Err())
				}
			}
			if planted < seeds/8 {
				t.Fatalf("only %d of %d histories had a place for it", planted, seeds)
			}
		})
	}
}
