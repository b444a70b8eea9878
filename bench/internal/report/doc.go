// Package report is the form in which results are kept and shown: one JSON
// object a line for each run, and a table for people. All systems write the
// same, so that files can be put together and compared.
package report
