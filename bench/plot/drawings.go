package main

import (
	"fmt"

	"github.com/copycat-replication/copycat/bench/internal/report"
)

// drawing is one plot: some lines over a common axis.
type drawing struct {
	name, title, x, y string
	logX, logY        bool
	series            []series
}

type series struct {
	name   string
	points []point
}

// point is a median with its extremes; with a spread of 0 it has none.
type point struct {
	x, y, least, most float64
}

// drawings are the plots of a scenario.
func drawings(c *report.Comparison) []drawing {
	switch c.Scenario {
	case "curve":
		return []drawing{
			throughputLatency(c, "p50", "p50_us"),
			throughputLatency(c, "p99", "p99_us"),
		}
	case "groups":
		return []drawing{
			scaling(c, "groups-throughput", "Throughput with more structures, at the same load", "structures", "operations/s", "ops_per_second", 1),
			scaling(c, "groups-cpu", "Processor time for each operation, over all replicas", "structures", "µs", "cpu_us_per_op", 1),
		}
	case "rate":
		return []drawing{
			scaling(c, "rate-cpu", "Processor time for each operation, at the same number a second", "structures", "µs", "cpu_us_per_op", 1),
			scaling(c, "rate-p99", "Latency (p99), at the same number a second", "structures", "ms", "p99_us", 1.0/1000),
		}
	case "idle":
		return []drawing{
			scaling(c, "idle-cpu", "Idle structures: processor time of three nodes", "structures", "% of a core", "cpu_percent_of_core", 1),
			scaling(c, "idle-memory", "Idle structures: memory for each replica", "structures", "kB", "memory_bytes_per_replica", 1.0/1024),
		}
	case "subscribers":
		return []drawing{scaling(c, "subscribers-throughput", "Throughput with more subscribers", "subscribers", "operations/s", "ops_per_second", 1)}
	case "soak":
		return overTime(c)
	}
	return nil
}

// throughputLatency has throughput to the right and latency upwards: each
// system's line goes from few outstanding proposals to many.
func throughputLatency(c *report.Comparison, what, key string) drawing {
	d := drawing{
		name: "throughput-latency-" + what, title: "Throughput against latency (" + what + "), from 1 to 16,384 outstanding",
		x: "operations/s", y: "ms", logX: true, logY: true,
	}
	d.each(c, func(k *report.Contender, _ float64) (point, bool) {
		rate, latency := k.Summary["ops_per_second"].Median, k.Summary[key].Median/1000
		return point{x: rate, y: latency}, rate > 0 && latency > 0
	})
	return d
}

// scaling has what varies to the right.
func scaling(c *report.Comparison, name, title, x, y, key string, unit float64) drawing {
	d := drawing{name: name, title: title, x: x, y: y, logX: true, logY: true}
	d.each(c, func(k *report.Contender, at float64) (point, bool) {
		s := k.Summary[key]
		return point{at, s.Median * unit, s.Least * unit, s.Most * unit}, at > 0 && s.Least > 0
	})
	return d
}

// each collects the points of all cases, by contender, in the order of their
// first appearance.
func (d *drawing) each(c *report.Comparison, of func(k *report.Contender, x float64) (point, bool)) {
	index := make(map[string]int)
	for i := range c.Cases {
		for j := range c.Cases[i].Contenders {
			k := &c.Cases[i].Contenders[j]
			p, ok := of(k, c.Cases[i].X)
			if !ok {
				continue
			}
			at, known := index[k.Name]
			if !known {
				at = len(d.series)
				index[k.Name] = at
				d.series = append(d.series, series{name: k.Name})
			}
			d.series[at].points = append(d.series[at].points, p)
		}
	}
}

// overTime draws the first run of each contender.
func overTime(c *report.Comparison) (out []drawing) {
	kinds := []struct {
		name, y string
		of      func(report.Sample) float64
	}{
		{"memory", "MB", func(s report.Sample) float64 { return float64(s.Memory) / (1 << 20) }},
		{"disk", "MB", func(s report.Sample) float64 { return float64(s.Disk) / (1 << 20) }},
		{"throughput", "operations/s", func(s report.Sample) float64 { return s.Rate }},
	}
	for i := range c.Cases {
		for _, kind := range kinds {
			d := drawing{name: fmt.Sprintf("soak-%s-%d", kind.name, i+1), title: c.Cases[i].Name + ": " + kind.name + " over time", x: "s", y: kind.y}
			for _, k := range c.Cases[i].Contenders {
				if len(k.Runs) == 0 || len(k.Runs[0].Samples) == 0 {
					continue
				}
				line := series{name: k.Name}
				for _, s := range k.Runs[0].Samples {
					line.points = append(line.points, point{x: s.At, y: kind.of(s)})
				}
				d.series = append(d.series, line)
			}
			out = append(out, d)
		}
	}
	return out
}
