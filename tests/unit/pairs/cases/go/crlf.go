package shapes

// Dos ends its lines
// with CR LF.
func Dos() int {
	return 1
}
