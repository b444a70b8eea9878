package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/copycat-replication/copycat/bench/internal/measure"
)

// Comparison is a scenario that several systems went through, in alternating
// runs.
type Comparison struct {
	Format   int             `json:"format"`
	Scenario string          `json:"scenario"`
	About    string          `json:"about"`
	Command  string          `json:"command"`
	Began    time.Time       `json:"began"`
	Rounds   int             `json:"rounds"`
	Machine  measure.Machine `json:"machine"` // before the first run
	Cases    []Case          `json:"cases"`
}

// Case is one row of a scenario: the same flags for all contenders.
type Case struct {
	Name    string   `json:"name"`
	Flags   []string `json:"flags"`
	Measure string   `json:"measure"`
	// X places the case in plots, where a scenario varies one thing.
	X          float64     `json:"x,omitempty"`
	Contenders []Contender `json:"contenders"`
}

// Contender is a system, or a variant of one, in a case. The first one is that
// which the others are compared with.
type Contender struct {
	Name     string   `json:"name"`
	Flags    []string `json:"flags,omitempty"` // beside those of the case
	Settings string   `json:"settings,omitempty"`
	// Skipped says why there are no runs; Failed why there are fewer than rounds.
	Skipped string `json:"skipped,omitempty"`
	Failed  string `json:"failed,omitempty"`

	Runs    []Result           `json:"runs"`
	Summary map[string]Summary `json:"summary"`
	// Ratio is the first contender's figure through this one's, in each round
	// in which both ran: what the machine did meanwhile hits both alike.
	Ratio map[string]Summary `json:"ratio,omitempty"`
}

// kind is what the case measures: what its flags said, and of a load what its runs show.
func (c *Case) kind() string {
	if c.Measure != "" && c.Measure != "load" {
		return c.Measure
	}
	for i := range c.Contenders {
		for j := range c.Contenders[i].Runs {
			switch r := &c.Contenders[i].Runs[j]; {
			case len(r.Samples) > 0:
				return overTime
			case r.Plan.Rate > 0:
				return fixedRate
			}
		}
	}
	return c.Measure
}

// Sum fills in what follows from the runs: summaries, ratios and settings.
func (c *Case) Sum() {
	metrics := Metrics(c.kind())
	for i := range c.Contenders {
		k := &c.Contenders[i]
		k.Summary, k.Ratio = nil, nil
		if len(k.Runs) == 0 {
			continue
		}
		k.Settings = k.Runs[0].Settings
		k.Summary = make(map[string]Summary)
		for _, m := range metrics {
			k.Summary[m.Key] = Summarize(m, k.Runs)
			if ratios := paired(m, c.Contenders[0].Runs, k.Runs); i > 0 && m.Ratio != 0 && len(ratios) > 0 {
				if k.Ratio == nil {
					k.Ratio = make(map[string]Summary)
				}
				k.Ratio[m.Key] = summarize(ratios)
			}
		}
	}
}

// paired divides the figures of the same rounds. Rounds in which one of them
// measured nothing have no ratio.
func paired(m Metric, base, other []Result) (ratios []float64) {
	for i := range base {
		for j := range other {
			if base[i].Run != other[j].Run {
				continue
			}
			if a, b := m.Of(&base[i]), m.Of(&other[j]); a > 0 && b > 0 {
				ratios = append(ratios, a/b)
			}
		}
	}
	return ratios
}

// WriteComparisons writes a file of comparisons.
func WriteComparisons(w io.Writer, all []Comparison) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	if err := e.Encode(all); err != nil {
		return fmt.Errorf("write comparisons: %w", err)
	}
	return nil
}

// ReadComparisons reads what WriteComparisons wrote.
func ReadComparisons(from io.Reader) ([]Comparison, error) {
	var all []Comparison
	if err := json.NewDecoder(from).Decode(&all); err != nil {
		return nil, fmt.Errorf("read comparisons: %w", err)
	}
	var errs []error
	for _, c := range all {
		if c.Format > Format {
			errs = append(errs, fmt.Errorf("comparison %s: %w: %d, this program knows %d", c.Scenario, ErrNewerFormat, c.Format, Format))
		}
	}
	return all, errors.Join(errs...)
}
