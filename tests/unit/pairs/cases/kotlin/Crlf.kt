/**
 * Ends its lines with CR LF.
 */
fun dos(): Int {
    return 1
}
