package main

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

const (
	width  = 18 * vg.Centimeter
	height = 11 * vg.Centimeter
)

// save writes the plot into a directory, and returns its path.
func (d *drawing) save(dir, format string) (string, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = d.title, d.x, d.y
	p.Title.Padding, p.Legend.Padding = vg.Points(8), vg.Points(2)
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs = true, true, vg.Points(6)
	p.Add(plotter.NewGrid())
	if d.logX {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, decades{}
	}
	if d.logY {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades{}
	}
	for i, s := range d.series {
		if err := s.add(p, i); err != nil {
			return "", err
		}
	}
	if !d.logY {
		p.Y.Min = 0
	}
	// One value alone makes an axis that gonum widens to below zero.
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		if axis.Min == axis.Max && axis.Min > 0 {
			axis.Min, axis.Max = axis.Min/2, axis.Max*2
		}
	}
	name := filepath.Join(dir, d.name+"."+format)
	if err := p.Save(width, height, name); err != nil {
		return "", fmt.Errorf("save: %w", err)
	}
	return name, nil
}

func (s *series) add(p *plot.Plot, number int) error {
	at := make(plotter.XYs, len(s.points))
	spread := make(plotter.YErrors, len(s.points))
	spreads := false
	for i, q := range s.points {
		at[i].X, at[i].Y = q.x, q.y
		if q.most > q.least && q.least > 0 {
			spread[i].Low, spread[i].High = q.y-q.least, q.most-q.y
			spreads = true
		}
	}
	line, dots, err := plotter.NewLinePoints(at)
	if err != nil {
		return fmt.Errorf("line of %s: %w", s.name, err)
	}
	line.Color, line.Width = plotutil.Color(number), vg.Points(1.5)
	dots.Color, dots.Shape = plotutil.Color(number), plotutil.Shape(number)
	p.Add(line, dots)
	if spreads {
		bars, err := plotter.NewYErrorBars(struct {
			plotter.XYer
			plotter.YErrorer
		}{at, spread})
		if err != nil {
			return fmt.Errorf("spread of %s: %w", s.name, err)
		}
		bars.Color = plotutil.Color(number)
		p.Add(bars)
	}
	p.Legend.Add(s.name, line, dots)
	return nil
}

// decades marks 1, 2 and 5 of each power of ten.
type decades struct{}

// Ticks implements plot.Ticker.
func (decades) Ticks(least, most float64) (out []plot.Tick) {
	if least <= 0 {
		return nil
	}
	for e := math.Floor(math.Log10(least)); e <= math.Ceil(math.Log10(most)); e++ {
		for m := 1.0; m < 10; m++ {
			tick := plot.Tick{Value: m * math.Pow(10, e)}
			if tick.Value < least || tick.Value > most {
				continue
			}
			if m == 1 || m == 2 || m == 5 {
				tick.Label = strconv.FormatFloat(tick.Value, 'f', -1, 64)
			}
			out = append(out, tick)
		}
	}
	return out
}
