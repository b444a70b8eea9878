package register

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/copycat-replication/copycat/internal/history"
)

// Errors of Check.
var (
	// ErrNotLinearizable says that no order of a key's operations explains what was read.
	ErrNotLinearizable = errors.New("register is not linearizable")
	// ErrUndecided says that the time was over before the search ended.
	ErrUndecided = errors.New("linearizability is undecided: out of time")
)

// Input is what an operation was asked for: a put of ID under Key, or a read
// of Key that rides on ID. A read's output is a history.ID, zero if nothing
// was put; a put has none.
type Input struct {
	Op  history.Op
	Key uint32
	ID  history.ID
}

// Model is a map of registers, partitioned by key.
func Model() porcupine.Model {
	return porcupine.Model{
		Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
			keys, byKey := partition(ops)
			out := make([][]porcupine.Operation, 0, len(keys))
			for _, k := range keys {
				out = append(out, byKey[k])
			}
			return out
		},
		Init: func() any { return history.ID{} },
		Step: func(state, input, output any) (bool, any) {
			in, ok := input.(Input)
			if ok && in.Op == history.OpPut {
				return true, in.ID
			}
			return ok && output == state, state
		},
		DescribeOperation: func(input, output any) string {
			in, _ := input.(Input)
			if in.Op == history.OpPut {
				return fmt.Sprintf("put(%d, %s)", in.Key, in.ID)
			}
			return fmt.Sprintf("read(%d) = %s", in.Key, output)
		},
	}
}

func partition(ops []porcupine.Operation) ([]uint32, map[uint32][]porcupine.Operation) {
	byKey := make(map[uint32][]porcupine.Operation)
	for _, op := range ops {
		if in, ok := op.Input.(Input); ok {
			byKey[in.Key] = append(byKey[in.Key], op)
		}
	}
	return slices.Sorted(maps.Keys(byKey)), byKey
}

// Operations turns the puts and reads of one structure into operations, sorted
// by their calls. order is the structure's total order, from
// history.Report.Order. A read without its proposal is history.ErrMalformed.
func Operations(h *history.History, structure uint16, order []history.ID) ([]porcupine.Operation, error) {
	counted := make(map[history.ID]bool, len(order))
	for _, id := range order {
		counted[id] = true
	}
	seen := make(map[history.ID]int64) // when it was first delivered to anybody
	for i := range h.Logs {
		for k := range h.Logs[i].Events {
			e := &h.Logs[i].Events[k]
			if at, known := seen[e.ID]; e.Kind == history.KindDelivered && (!known || e.At < at) {
				seen[e.ID] = e.At
			}
		}
	}
	var ops []porcupine.Operation
	for i := range h.Logs {
		if l := &h.Logs[i]; l.Sub.Structure == structure {
			own, err := operations(l, i, counted, seen)
			if err != nil {
				return nil, err
			}
			ops = append(ops, own...)
		}
	}
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	return ops, nil
}

// operations are those of one subscriber.
func operations(l *history.Log, client int, counted map[history.ID]bool, seen map[history.ID]int64) ([]porcupine.Operation, error) {
	var ops []porcupine.Operation
	calls, puts := make(map[history.ID]int64), make(map[history.ID]int)
	for k := range l.Events {
		e := &l.Events[k]
		switch e.Kind {
		case history.KindProposed:
			calls[e.ID] = e.At
			if e.Op != history.OpPut || !counted[e.ID] {
				continue
			}
			end, known := seen[e.ID]
			if !known {
				end = math.MaxInt64 // it came to everybody in a snapshot
			}
			puts[e.ID] = len(ops)
			ops = append(ops, porcupine.Operation{ClientId: client, Input: Input{history.OpPut, e.Key, e.ID}, Call: e.At, Return: max(e.At, end)})
		case history.KindDelivered:
			if i, own := puts[e.ID]; own {
				ops[i].Return = max(ops[i].Call, e.At)
			}
		case history.KindRead:
			call, known := calls[e.ID]
			if !known || e.Extra == nil {
				return nil, fmt.Errorf("%w: %s read by %s, which it had not proposed", history.ErrMalformed, l.Sub, e.ID)
			}
			ops = append(ops, porcupine.Operation{ClientId: client, Input: Input{history.OpRead, e.Key, e.ID}, Output: e.Value, Call: call, Return: max(call, e.At)})
		}
	}
	return ops, nil
}

// Check holds the register map of one structure against the model, and returns
// how many operations it had. Each key may take the time-out (zero: for ever).
// The error wraps ErrNotLinearizable or ErrUndecided, and names the keys.
func Check(h *history.History, structure uint16, order []history.ID, timeout time.Duration) (int, error) {
	ops, err := Operations(h, structure, order)
	if err != nil {
		return 0, err
	}
	keys, byKey := partition(ops)
	var faults []error
	for _, key := range keys {
		switch porcupine.CheckOperationsTimeout(Model(), byKey[key], timeout) {
		case porcupine.Ok:
		case porcupine.Unknown:
			faults = append(faults, fmt.Errorf("%w: structure %d, key %d, %d operations, after %v", ErrUndecided, structure, key, len(byKey[key]), timeout))
		default:
			faults = append(faults, fmt.Errorf("%w: structure %d, key %d, %d operations%s", ErrNotLinearizable, structure, key, len(byKey[key]), suspects(byKey[key], order)))
		}
	}
	return len(ops), errors.Join(faults...)
}

// suspects names the operations that the total order does not explain: reads
// of something else than what it has, and operations that it has before ones
// that had ended when they began.
func suspects(ops []porcupine.Operation, order []history.ID) string {
	place := make(map[history.ID]int, len(order))
	for at, id := range order {
		place[id] = at
	}
	ordered := slices.Clone(ops)
	at := func(o porcupine.Operation) int {
		in, _ := o.Input.(Input)
		return place[in.ID]
	}
	slices.SortStableFunc(ordered, func(a, b porcupine.Operation) int { return cmp.Compare(at(a), at(b)) })
	var lines []string
	var value history.ID
	var latest porcupine.Operation // the one that began last
	for _, o := range ordered {
		in, _ := o.Input.(Input)
		where := fmt.Sprintf("%s at place %d", Model().DescribeOperation(o.Input, o.Output), at(o)+1)
		if in.Op == history.OpPut {
			value = in.ID
		} else if o.Output != value {
			lines = append(lines, fmt.Sprintf("%s: the order has %s there", where, value))
		}
		if o.Return < latest.Call {
			lines = append(lines, fmt.Sprintf("%s ended %v before %s began, which stands before it",
				where, time.Duration(latest.Call-o.Return), Model().DescribeOperation(latest.Input, latest.Output)))
		}
		if o.Call > latest.Call || latest.Input == nil {
			latest = o
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return ":\n    " + strings.Join(lines[:min(len(lines), 10)], "\n    ")
}
