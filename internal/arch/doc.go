// Package arch holds the tests of the house rules: which package may import
// which, and that every Go file is formatted. It has no code of its own.
package arch
