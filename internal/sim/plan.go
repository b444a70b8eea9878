package sim

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Plan says which run it is. All that a run does follows from it: the seed
// gives everything that the rest does not fix. The zero value of each other
// field means that nothing is fixed.
type Plan struct {
	Seed   uint64
	Salt   uint64        // another run under the same faults: everything else is drawn anew
	Nodes  int           // 3 to 7, of which 3 or 5 are voters of each group
	Groups int           // 1 to 4
	Faulty time.Duration // how long faults go on; default 30 s of virtual time
	Faults []int         // numbers of the faults that happen; nil: all that the seed has
	Kind   string        // all of them are of this kind, such as "clock jump"; "": of any
	// Registers has the programs read too, and little under way, so that the
	// map of registers can be held against a model.
	Registers bool
	// Town is a run of the other kind: a town of nodes (town.go). Nodes is how
	// many there are at first, Groups how many structures (100), Faulty how long
	// events go on (two hours), and Faults which of them happen.
	Town bool
}

// String is the plan as Parse reads it: for a command line.
func (p Plan) String() string {
	parts := []string{fmt.Sprintf("seed=%d", p.Seed)}
	add := func(name string, value any, given bool) {
		if given {
			parts = append(parts, fmt.Sprintf("%s=%v", name, value))
		}
	}
	add("salt", p.Salt, p.Salt != 0)
	add("nodes", p.Nodes, p.Nodes != 0)
	add("groups", p.Groups, p.Groups != 0)
	add("faulty", p.Faulty, p.Faulty != 0)
	add("kind", p.Kind, p.Kind != "")
	add("registers", p.Registers, p.Registers)
	add("town", p.Town, p.Town)
	if p.Faults != nil {
		numbers := make([]string, len(p.Faults))
		for i, f := range p.Faults {
			numbers[i] = strconv.Itoa(f)
		}
		add("faults", strings.Join(numbers, "+"), true)
	}
	return strings.Join(parts, ",")
}

// Parse reads what String has written.
func Parse(text string) (Plan, error) {
	var p Plan
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(part, "=")
		var err error
		switch name {
		case "seed":
			p.Seed, err = strconv.ParseUint(value, 10, 64)
		case "salt":
			p.Salt, err = strconv.ParseUint(value, 10, 64)
		case "nodes":
			p.Nodes, err = strconv.Atoi(value)
		case "groups":
			p.Groups, err = strconv.Atoi(value)
		case "faulty":
			p.Faulty, err = time.ParseDuration(value)
		case "kind":
			if p.Kind = value; !isKind(value) {
				err = errors.New("no such fault")
			}
		case "registers":
			p.Registers, err = strconv.ParseBool(value)
		case "town":
			p.Town, err = strconv.ParseBool(value)
		case "faults":
			p.Faults = []int{}
			for number := range strings.SplitSeq(value, "+") {
				if number == "" {
					continue
				}
				f, e := strconv.Atoi(number)
				if e != nil {
					err = e
				}
				p.Faults = append(p.Faults, f)
			}
		default:
			err = fmt.Errorf("unknown field %q", name)
		}
		if err != nil {
			return Plan{}, fmt.Errorf("plan %q: %w", text, err)
		}
	}
	return p, nil
}

// fault is one entry of a schedule. Its particulars come from a source of its
// own, so that it stays what it is when others are left out.
type fault struct {
	number int
	at     time.Duration
	seed   uint64
}

// longest is how long a schedule is: a shorter run has the beginning of it.
const longest = 10 * time.Minute

// faulty is how long the faults of a plan go on.
func (p Plan) faulty() time.Duration {
	if p.Town {
		return cmp.Or(p.Faulty, 2*time.Hour)
	}
	if p.Faulty == 0 {
		return 30 * time.Second
	}
	return min(p.Faulty, longest)
}

// schedule lists the faults of a plan, in time.
func (p Plan) schedule() []fault {
	if p.Town {
		return p.townSchedule()
	}
	rng := rand.New(rand.NewPCG(p.Seed, 0xfa17))
	var out []fault
	at := time.Duration(0)
	for i := 0; ; i++ {
		at += 50*time.Millisecond + time.Duration(rng.Int64N(int64(1450*time.Millisecond)))
		f := fault{number: i, at: at, seed: rng.Uint64()}
		if at >= p.faulty() {
			return out
		}
		if p.Faults == nil || slices.Contains(p.Faults, i) {
			out = append(out, f)
		}
	}
}
