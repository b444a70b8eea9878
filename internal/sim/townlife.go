package sim

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/copycat-replication/copycat/catalog"
)

// The programs of a town: each structure has one to three homes, nodes on which
// a program subscribes to it. Programs move now and then, and their nodes die.
// Most of the time a structure is quiet; then a few changes come, or a minute or
// two full of them.

// settleIn gives a structure its homes, whose programs have it born.
func (t *town) settleIn(i int) {
	if t.over {
		return
	}
	for range 1 + t.rng.IntN(3) {
		t.moveIn(i)
	}
	t.after(t.between(20*time.Minute, 2*time.Hour), func() { t.commute(i) })
}

// moveIn gives a structure another home, if there is one.
func (t *town) moveIn(i int) {
	st := &t.structures[i]
	n := t.nodes[t.rng.IntN(len(t.nodes))]
	if n.up && !n.leaving && !n.gone && !slices.Contains(st.homes, n) {
		st.homes = append(st.homes, n)
		n.programs = append(n.programs, i)
	}
}

// moveOut ends the programs of a structure on a node.
func (t *town) moveOut(i int, n *node) {
	st := &t.structures[i]
	st.homes = slices.DeleteFunc(st.homes, func(o *node) bool { return o == n })
	n.programs = slices.DeleteFunc(n.programs, func(j int) bool { return j == i })
	for _, sub := range n.subs {
		if sub.group == i && !sub.leaving {
			sub.leaving = true
			sub.m.Leave()
		}
	}
	t.stepped(n)
}

// commute moves programs of a structure, now and then.
func (t *town) commute(i int) {
	if t.over {
		return
	}
	st := &t.structures[i]
	if len(st.homes) > 0 && t.chance(0.7) {
		t.moveOut(i, st.homes[t.rng.IntN(len(st.homes))])
	}
	for len(st.homes) < 3 && t.chance(0.6) {
		t.moveIn(i)
	}
	t.after(t.between(20*time.Minute, 2*time.Hour), func() { t.commute(i) })
}

// inhabit has the programs of a node subscribe, again whenever one is not.
func (t *town) inhabit(n *node, life uint64) {
	t.after(t.between(500*time.Millisecond, 3*time.Second), func() {
		if !n.up || n.life != life {
			return
		}
		if !n.paused && !n.leaving {
			for _, i := range n.programs {
				t.enter(n, i)
			}
			n.work()
		}
		t.inhabit(n, life)
	})
}

// enter has a program subscribe that does not.
func (t *town) enter(n *node, i int) {
	st := &t.structures[i]
	if n.subscribers(i) > 0 || st.stage == deleting || st.stage == deleted || st.stage == extinct {
		return
	}
	if g, here := n.host.Group(st.id); !here {
		n.ask(i)
	} else if !g.Status().Failed && !t.watch.died(g.Key()) {
		t.must(n.subscribe(i))
	}
}

// toil has the programs work for some minutes, and rest for some.
func (t *town) toil() {
	t.idle = !t.idle && t.now.Sub(t.begin) > warmUp
	lasts := t.between(30*time.Second, 4*time.Minute)
	if t.idle {
		lasts = t.between(time.Minute, 10*time.Minute)
	}
	t.after(lasts, t.toil)
}

// stir has the programs of a structure propose something, now and then.
func (t *town) stir(i int) {
	if t.over {
		return
	}
	count, pause := 1+t.rng.IntN(8), 300*time.Millisecond
	if t.chance(0.05) {
		count, pause = 50+t.rng.IntN(200), 400*time.Millisecond
	}
	if !t.idle {
		t.say(i, count, pause)
	}
	t.after(time.Duration(float64(3*time.Minute)*t.rng.ExpFloat64()), func() { t.stir(i) })
}

// say has programs of a structure propose, one after the other.
func (t *town) say(i, count int, pause time.Duration) {
	st := &t.structures[i]
	if len(st.homes) > 0 {
		n := st.homes[t.rng.IntN(len(st.homes))]
		for _, sub := range n.subs {
			if sub.group == i && !sub.leaving && n.up && !n.paused && sub.propose() {
				n.work()
				break
			}
		}
	}
	if count--; count > 0 && !t.over {
		t.after(t.between(0, pause), func() { t.say(i, count, pause) })
	}
}

// demolish has a structure deleted, whatever comes in between, and perhaps
// created anew.
func (t *town) demolish(st *structure, anewToo bool) {
	if st.stage != lasting || t.watch.lives(st.id) == 0 {
		return
	}
	st.stage = deleting
	var next func()
	next = func() {
		n := t.nodes[t.rng.IntN(len(t.nodes))]
		if n.up && !n.paused && !n.leaving {
			tasks{n}.Go(func() { t.must(t.demolishOnce(n, st, anewToo)) })
		}
		t.after(t.between(joinTimeout, 2*joinTimeout), func() {
			if st.stage == deleting || st.stage == deleted {
				next()
			}
		})
	}
	next()
}

// demolishOnce tries the next step once.
func (t *town) demolishOnce(n *node, st *structure, anewToo bool) error {
	ctx, cancel := tasks{n}.Within(context.Background(), joinTimeout)
	defer cancel()
	switch st.stage {
	case deleting:
		err := n.svc.DeleteStructure(ctx, st.id)
		if st.last = err; err != nil {
			if ctx.Err() != nil || passing(err) {
				return nil
			}
			return err
		}
		if st.stage == deleting {
			st.stage = extinct
			if anewToo {
				st.stage = deleted
			}
		}
	case deleted:
		options, pick := n.birthOf(st)
		_, err := n.svc.Create(ctx, st.id, options, pick)
		st.last = err
		// That it exists may be an old answer, of the life before.
		if err == nil || errors.Is(err, catalog.ErrExists) && t.watch.lives(st.id) != 0 {
			st.stage = lasting
		} else if ctx.Err() == nil && !passing(err) && !errors.Is(err, catalog.ErrExists) {
			return err
		}
	}
	return nil
}
