// Command census counts words and primes; see the README of this directory's parent for what is counted.
//
// It is built for GOOS=wasip1, where int has 64 bits although pointers have 32.
package main

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	limitMax = 5_000_000
	topMax   = 100
)

func main() {
	top, err := strconv.ParseUint(cmp.Or(os.Getenv("CENSUS_TOP"), "5"), 10, 64)
	if len(os.Args) != 3 || err != nil || top > topMax {
		usage()
	}
	limit, err := strconv.ParseUint(os.Args[2], 10, 64)
	if err != nil || limit < 2 || limit > limitMax {
		usage()
	}
	if err := run(os.Args[1], int(top), limit); err != nil {
		fmt.Fprintln(os.Stderr, "census:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintf(os.Stderr, "usage: census DATA LIMIT (2 to %d; CENSUS_TOP: 0 to %d)\n", limitMax, topMax)
	os.Exit(2)
}

func run(data string, top int, limit uint64) error {
	census := census{words: map[string]uint64{}}
	if err := census.addData(data); err != nil {
		return err
	}
	report := census.report(top, limit)
	out := cmp.Or(os.Getenv("CENSUS_OUT"), "census.txt")
	if err := os.WriteFile(out, []byte(report), 0o644); err != nil {
		return err
	}
	_, err := os.Stdout.WriteString(report)
	return err
}

type census struct {
	files, bytes, lines uint64
	words               map[string]uint64
}

// addData counts a file, or the files directly in a directory.
func (c *census) addData(data string) error {
	info, err := os.Stat(data)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return c.addFile(data)
	}
	entries, err := os.ReadDir(data)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(data, entry.Name())
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if err := c.addFile(path); err != nil {
			return err
		}
	}
	return nil
}

func (c *census) addFile(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c.files++
	c.bytes += uint64(len(content))
	c.lines += uint64(bytes.Count(content, []byte("\n")))
	for word := range bytes.FieldsFuncSeq(content, notLetter) {
		c.words[string(bytes.ToLower(word))]++
	}
	return nil
}

func notLetter(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
}

func (c *census) report(top int, limit uint64) string {
	var total uint64
	for _, count := range c.words {
		total += count
	}
	sorted := slices.SortedFunc(maps.Keys(c.words), func(one, other string) int {
		return cmp.Or(cmp.Compare(c.words[other], c.words[one]), cmp.Compare(one, other))
	})
	var text strings.Builder
	fmt.Fprintf(&text, "files %d\nbytes %d\nlines %d\n", c.files, c.bytes, c.lines)
	fmt.Fprintf(&text, "words %d\ndistinct %d\n", total, len(sorted))
	for _, word := range sorted[:min(top, len(sorted))] {
		fmt.Fprintf(&text, "top %s %d\n", word, c.words[word])
	}
	primes, squares := primesBelow(limit)
	fmt.Fprintf(&text, "primes %d\nsquares %d\n", primes, squares)
	return text.String()
}

// primesBelow tells how many primes there are below a limit, and the sum of their squares.
func primesBelow(limit uint64) (count, squares uint64) {
	composite := make([]bool, limit)
	for number := uint64(2); number < limit; number++ {
		if composite[number] {
			continue
		}
		count++
		squares += number * number
		for multiple := number * number; multiple < limit; multiple += number {
			composite[multiple] = true
		}
	}
	return count, squares
}
