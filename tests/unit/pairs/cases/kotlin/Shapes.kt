// A licence that nobody reads.
package org.example

import kotlin.math.max

/** Adds two numbers. */
fun add(a: Int, b: Int): Int {
    return a + b
}

/**
 * Reads a [Row] like [the list][List.get] does.
 *
 * @param at the row
 * @return what is there
 */
@Throws(IOException::class)
@JvmStatic public suspend inline fun <reified T : Any> read(at: Int): T? {
    return get(at)
}

/** Is one expression long. */
internal fun arrow(a: Int) = a + 1

/** Extends the type of lists. */
fun <T> List<T>.second(): T {
    return this[1]
}

/** A list of [rows][Row]. */
open class Rows<T>(private val source: Source<T>) : Base(), Shown by source {
    /** How many there are. */
    var count: Int = 0

    /** Makes it from a number. */
    constructor(n: Int) : this(sourceOf(n)) {
        count = n
    }

    init {
        count = 1
    }

    /** Tells how large it is. */
    val size: Int
        get() {
            return count
        }

    /** Has no code of its own. */
    val plain: Int = 1

    /** Adds the rows of another list. */
    operator fun plus(other: Rows<T>): Rows<T> {
        return this
    }

    /** Reads it as text. */
    override fun toString(): String {
        return "rows"
    }

    /** Has no body at all. */
    abstract fun shown()

    companion object {
        /** Makes one of nothing. */
        fun empty(): Rows<Int> {
            return Rows(0)
        }
    }

    /** Counts what is inside. */
    inner class Counter {
        /** Counts one more of it. */
        fun more(): Int {
            return count++
        }
    }
}

/** What can be shown. */
interface Shown {
    /** Shows it without a body. */
    fun show()

    /** Shows it by default. */
    fun showTwice() {
        show()
        show()
    }
}

/** The kinds of it. */
enum class Kind(val n: Int) {
    /** The first of them. */
    A(1) {
        /** Overrides in a constant. */
        override fun corners(): Int {
            return 0
        }
    },
    B(2);

    /** Counts the corners of it. */
    open fun corners(): Int {
        return 4
    }
}

/** The only one of it. */
object Single {
    /** Stands in an object. */
    fun named(): Int {
        return 1
    }
}

/** Runs a function in it. */
fun outer(): Int {
    /** Does the local work. */
    fun work(): Int {
        return 1
    }
    return work()
}

/** Has a name with spaces. */
fun `with spaces`(): Int {
    return 1
}

// Only a line comment here.
fun lineComment(): Int {
    return 1
}

/* Has but one star. */
fun plainBlock(): Int {
    return 1
}

/** Stands above another comment. */
// a remark to the reader
fun remarked(): Int {
    return 1
}

/** Stands above a blank line. */

fun spaced(): Int {
    return 1
}

/** Builds with a lambda of it. */
fun build(block: Rows<Int>.() -> Unit = {}): Rows<Int> {
    return Rows(0).apply(block)
}

/** Overloaded for text. */
fun twice(a: String): String {
    return "$a${a.length}"
}

/** Overloaded for numbers of it. */
fun twice(a: Int): Int {
    return 2 * a
}

/**
 * @return only a tag
 */
fun onlyTag(): Int {
    return 1
}

/** Is the test of it. */
@Test
fun reads() {
    add(1, 2)
}

/** Zählt die Stücke. */
fun stückZahl(): Int {
    return 1
}
