package sim

import (
	"slices"
	"time"
)

// Shrink looks for a smaller plan that fails as a given one does: fewer faults,
// a shorter time, fewer groups and nodes. fails runs a plan and reports
// whether it still does; it is called some hundred times at most, budget says
// how often. What remains after the smaller is a run of its own, with other
// accidents, so each candidate gets a few tries, with another salt each time.
//
// The faults are reduced as in delta debugging (Zeller and Hildebrandt,
// "Simplifying and Isolating Failure-Inducing Input", 2002): larger parts are
// left out first, then smaller ones, then single ones.
func Shrink(p Plan, budget int, fails func(Plan) bool) Plan {
	k := &shrinker{best: p, budget: budget, fails: fails}
	if k.best.Faults == nil {
		k.best.Faults = []int{}
		for _, f := range p.schedule() {
			k.best.Faults = append(k.best.Faults, f.number)
		}
	}
	for before := ""; before != k.best.String() && k.budget > 0; {
		before = k.best.String()
		k.shorten()
		k.dropFaults()
		for n := 1; n < 4 && (k.best.Groups == 0 || n < k.best.Groups); n++ {
			if k.try(func(q *Plan) { q.Groups = n }) {
				break
			}
		}
		for n := 3; n < 7 && (k.best.Nodes == 0 || n < k.best.Nodes); n++ {
			if k.try(func(q *Plan) { q.Nodes = n }) {
				break
			}
		}
	}
	return k.best
}

type shrinker struct {
	best   Plan
	budget int
	fails  func(Plan) bool
}

// salts is how many tries a candidate gets.
const salts = 3

// try changes the best plan, and keeps the change if it still fails.
func (k *shrinker) try(change func(*Plan)) bool {
	for salt := range uint64(salts) {
		if k.budget <= 0 {
			return false
		}
		k.budget--
		q := k.best
		q.Faults = slices.Clone(q.Faults)
		change(&q)
		q.Salt = k.best.Salt + salt
		if k.fails(q) {
			k.best = q
			return true
		}
	}
	return false
}

// shorten halves the time, as often as that goes. Faults behind the end go
// with it.
func (k *shrinker) shorten() {
	for half := k.best.faulty() / 2; half >= time.Second; half /= 2 {
		if !k.try(func(q *Plan) { q.Faulty = half }) {
			break
		}
		var left []int
		for _, f := range k.best.schedule() {
			left = append(left, f.number)
		}
		k.best.Faults = append([]int{}, left...)
	}
}

// dropFaults leaves out parts of the faults.
func (k *shrinker) dropFaults() {
	for part := (len(k.best.Faults) + 1) / 2; part >= 1; {
		dropped := false
		for from := 0; from < len(k.best.Faults) && k.budget > 0; {
			to := min(from+part, len(k.best.Faults))
			if k.try(func(q *Plan) { q.Faults = slices.Delete(q.Faults, from, to) }) {
				dropped = true
			} else {
				from = to
			}
		}
		if k.budget <= 0 || part == 1 && !dropped {
			return
		}
		if part > 1 {
			part = (part + 1) / 2
		}
	}
}
