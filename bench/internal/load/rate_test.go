package load

import (
	"testing"
	"testing/synctest"
	"time"
)

// Proposals come at the rate that was asked for, over all lanes together, and evenly.
func TestRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := testPlan()
		p.Rate, p.Structures, p.Seconds, p.Warmup = 3000, 3, 2, 1
		o := run(t, p, nil)
		if o.Errors() != 0 || o.Ops < 5999 || o.Ops > 6001 {
			t.Errorf("%d operations in two seconds, of 6000: %+v", o.Ops, o)
		}
		if o.Slowest > 0 {
			t.Errorf("%s in a system that takes no time", o.Slowest)
		}
	})
}

// A system that stands still while proposals are due is charged for all of them,
// and not only for the one that it stood still with.
func TestRateCountsWhatWasHeldBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := testPlan()
		p.Rate, p.Structures, p.Outstanding, p.Seconds, p.Warmup = 1000, 1, 1, 2, 0
		applied := 0
		o := run(t, p, func(node int, payload []byte) [][]byte {
			if applied++; applied == p.Nodes*500 {
				time.Sleep(time.Second)
			}
			return [][]byte{payload}
		})
		if o.Errors() != 0 || o.Ops < 1999 || o.Ops > 2001 {
			t.Errorf("%d operations of 2000: %+v", o.Ops, o)
		}
		if late := time.Duration(o.Latency.ValueAtQuantile(75)); late < 450*time.Millisecond {
			t.Errorf("half of them were due while it stood still, and the third quartile is %s", late)
		}
	})
}
