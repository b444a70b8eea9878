// Package houserules holds the rules of this code base that a compiler does
// not check, as tests: which package may import which, no panic and no global
// logger in library code, a doc comment on every exported name.
package houserules
