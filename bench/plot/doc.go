// Plot draws what "bench compare" has measured, as SVG:
//
//	go run . -json bench-results.json -out plots
//
// It is a module of its own, so that gonum/plot does not enter the library's
// dependencies; bench compare and bench report run it.
package main
