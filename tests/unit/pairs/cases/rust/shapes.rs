// A licence that nobody reads.
//! Shapes that documented functions come in.

use std::fmt;

/// Adds two numbers.
///
/// # Examples
///
/// ```
/// assert_eq!(add(1, 2), 3);
/// ```
#[inline]
#[must_use = "/// no documentation"]
pub fn add<T: Add>(a: T, b: T) -> T
where
    T: Copy,
{
    a + b
}

/** Multiplies two numbers. */
pub(crate) async unsafe fn times(a: i32, b: i32) -> i32 {
    a * b
}

/**
 * Divides two numbers.
 *
 * More of it.
 */
const fn divide(a: i32, b: i32) -> i32 {
    a / b
}

#[doc = "Says it in an attribute."]
fn attribute() -> i32 {
    1
}

/// Goes on in
#[doc = r#"an attribute "of" it."#]
/// and ends here.
fn mixed() -> i32 {
    1
}

/// Stands above other things.
// a remark to the reader
#[cfg(unix)]
#[allow(dead_code)]

fn remarked() -> i32 {
    1
}

// Only a line comment here.
fn line_comment() -> i32 {
    1
}

/* Has but one star. */
fn plain_block() -> i32 {
    1
}

//// Has four slashes of it.
fn four_slashes() -> i32 {
    1
}

/// A list of rows.
#[derive(Clone)]
pub struct Rows<T> {
    /// How many there are.
    count: usize,
    rows: Vec<T>,
}

impl<T> Rows<T> {
    /// Makes an empty list.
    pub fn new() -> Self {
        Self { count: 0, rows: Vec::new() }
    }

    /// Reads a [`Row`](crate::Row) like [Vec::get] of [the list][list] does.
    ///
    /// [list]: https://example.org
    pub fn read(&self, at: usize) -> Option<&T> {
        self.rows.get(at)
    }

    /// Runs a function in it.
    fn outer(&self) {
        /// Does the local work.
        fn work() -> i32 {
            1
        }
        work();
    }
}

impl<T> fmt::Display for a::Rows<T> {
    /// Writes it as text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// What can be shown.
pub trait Shown {
    /// Shows it without a body.
    fn show(&self);

    /// Shows it by default.
    fn show_twice(&self) {
        self.show();
        self.show();
    }
}

mod inner {
    /// Lives inside a module.
    pub fn nested() -> i32 {
        1
    }
}

/// Picks the larger of two.
#[macro_export]
macro_rules! larger {
    ($a:expr, $b:expr) => {
        if $a > $b { $a } else { $b }
    };
}

extern "C" {
    /// Is declared here alone.
    fn declared(a: i32) -> i32;
}

/// Compares by **hand** with `a[0]` and <em>more</em>.
fn compare(a: &[i32]) -> bool {
    a[0] == 1
}

let_it_be! {
    /// Is inside a macro.
    fn hidden() {}
}

/// Has a remark behind its attribute.
#[allow(dead_code)] // it is used elsewhere
fn behind_attribute() -> i32 {
    1
}

/// Zählt die Stücke.
fn stück_zahl() -> usize {
    1
}

/// Reads it from text.
#[cfg(feature = "a")]
fn conditional() -> i32 {
    1
}

/// Reads it from bytes.
#[cfg(not(feature = "a"))]
fn conditional() -> i32 {
    2
}

#[cfg(test)]
mod tests {
    /// Is the test of it.
    #[test]
    fn reads() {
        assert!(true);
    }
}

/// Is marked as one alone.
#[tokio::test]
async fn marked() {
    assert!(true);
}
