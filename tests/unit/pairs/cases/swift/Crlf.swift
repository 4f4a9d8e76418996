/// Ends its lines
/// with CR LF.
func dos() -> Int {
    return 1
}
