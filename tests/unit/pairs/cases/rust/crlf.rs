/// Ends its lines
/// with CR LF.
#[inline]
fn dos() -> i32 {
    1
}
