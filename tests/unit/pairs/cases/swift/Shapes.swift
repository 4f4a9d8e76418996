// A licence that nobody reads.
import Foundation

/// Adds two numbers.
///
/// - Parameters:
///   - a: one of them
///   - b: the other
/// - Returns: their sum
@discardableResult
@inlinable public func add(_ a: Int, to b: Int) -> Int {
    return a + b
}

/** Multiplies two numbers. */
func times(a: Int, b: Int) -> Int {
    return a * b
}

/**
 Divides two numbers.

 - Throws: an error
 */
func divide(a: Int, b: Int) throws -> Int {
    return a / b
}

/// Reads a ``Rows/read(at:)`` of *all* `rows`.
/// - Returns: what is there
func linked() -> Int {
    return 1
}

/// A list of rows.
public final class Rows<T>: Base where T: Shown {
    /// How many there are.
    var count: Int = 0

    /// Makes an empty list.
    public init(count: Int) {
        self.count = count
    }

    /// Frees all of it again.
    deinit {
        clear()
    }

    /// Tells how large it is.
    var size: Int {
        return count
    }

    /// Tells and sets the first.
    var first: Int {
        get { return count }
        set { count = newValue }
    }

    /// Adds two lists of them.
    static func + (a: Rows, b: Rows) -> Rows {
        return a
    }

    /// Gives a row by its number.
    subscript(at: Int) -> Int {
        return at
    }

    /// Overrides what is above it.
    override class func make() -> Rows {
        return Rows(count: 0)
    }
}

/// More of the rows.
extension Rows where T == Int {
    /// Lives in an extension.
    func extended() async throws -> Int {
        return 1
    }
}

/// A pair of numbers.
struct Pair {
    /// Swaps both of them.
    mutating func swap() {
        (a, b) = (b, a)
    }

    // MARK: - Helpers

    func marked() {
        swap()
    }
}

/// The kinds of it.
enum Kind: Int {
    /// The first of them.
    case a

    /// Counts the corners of it.
    func corners() -> Int {
        switch self {
        case .a: return 1
        }
    }
}

/// What can be shown.
protocol Shown {
    /// Shows it without a body.
    func show()
}

/// Keeps its state apart.
actor Keeper {
    /// Keeps one more of it.
    func keep() async {
        await other()
    }
}

#if DEBUG
/// Prints what is in it.
func dump() {
    print(1)
}
#else
/// Prints nothing at all.
func dump() {
    _ = 1
}
#endif

/// Runs a function in it.
func outer() -> Int {
    /// Does the local work.
    func work() -> Int {
        return 1
    }
    return work()
}

// Only a line comment here.
func lineComment() {
    outer()
}

/* Has but one star. */
func plainBlock() {
    outer()
}

/// Stands above another comment.
// a remark to the reader
func remarked() {
    outer()
}

/// Overloaded for text.
func twice(_ a: String) -> String {
    return "\(a)\(a)"
}

/// Overloaded for numbers of it.
func twice(_ a: Int) -> Int {
    return 2 * a
}

/// Takes a closure as its last.
func with<T>(_ body: (T) throws -> Void) rethrows {
    try body(1)
}

/// Is the test of it.
@Test func reads() {
    outer()
}

/// Says no more of it.
/// - Note: It is old.
/// - Important: It is
///   indented.
///
/// Goes on below them.
func noted() {
    outer()
}

/// Has a raw name of it.
func `default`() {
    outer()
}
