// Copyright of somebody.

// Package shapes holds the shapes that documented functions come in.
package shapes

import "fmt"

// Add adds two numbers.
func Add(a, b int) int {
	return a + b
}

// Circle is round. It has
// no corners at all.
//
// A second paragraph.
type Circle struct {
	// R is the radius.
	R float64
}

// Area gives the area of [Circle] as a number.
func (c Circle) Area() float64 {
	return 3.14 * c.R * c.R
}

// Grow makes it larger.
func (c *Circle) Grow(by float64) {
	c.R += by
}

// Len counts what a generic list holds.
func (l *List[K, V]) Len() int {
	return len(l.items)
}

// Anon has an unnamed receiver.
func (*Circle) Anon() string {
	return "anon"
}

// Map applies f to each.
func Map[T, U any](in []T, f func(T) U) (out []U) {
	for _, x := range in {
		out = append(out, f(x))
	}
	return out
}

// Far stands above a blank line.

func Far() int {
	return 1
}

/* Block is documented by a block. */
func Block() int {
	return 1
}

/*
Long is documented by a long block
of two lines.
*/
func Long() int {
	return 1
}

// Inlined has a directive below its text.
//
//go:noinline
func Inlined() int {
	return 1
}

//go:nosplit
func onlyDirective() int {
	return 1
}

//nolint:errcheck
// Linted has a remark to a linter above.
func Linted() {
	fmt.Println()
}

var x = 1 // trails behind code
func trailed() int {
	return x
}

/* Same is on the same line. */ func Same() int {
	return 1
}

// Closure returns a function.
func Closure() func() int {
	// inner is no declaration.
	inner := func() int {
		return 1
	}
	return inner
}

// asm has its body elsewhere.
func asm(p *byte) int

// Grüße grüßt die Welt.
func Grüße(ä string) string {
	return "Grüße, " + ä
}

// Ünï is a method of a foreign type.
func (ß *Größe) Ünï() int {
	return 1
}

// Raw holds a raw string.
func Raw() string {
	return `
// NotADoc is no comment.
func NotADoc() {}
`
}

// TestAdd is a test.
func TestAdd(t *testing.T) {
	Add(1, 2)
}

// BenchmarkAdd is a benchmark.
func BenchmarkAdd(b *testing.B) {
	Add(1, 2)
}

// Pointers sets through pointers.
func Pointers(p *int) {
	*p = 1
}

// Many returns many things.
// It has a list:
//   - one
//   - two
func Many() (a int, err error) {
	return 1, nil
}

type (
	// Grouped is one of a group.
	Grouped interface {
		// Do has no body.
		Do() error
	}
)

	// Spaced is indented for no reason.
	func Spaced() int {
		return 1
	}

func bare() {}
