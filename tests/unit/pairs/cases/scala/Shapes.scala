// A licence that nobody reads.
package org.example

import scala.annotation.tailrec

/** A list of [[Row rows]]. */
class Rows[T](val source: Source[T]) extends Base with Shown {
  /** How many there are. */
  var count: Int = 0

  /** Makes it from a number. */
  def this(n: Int) = {
    this(sourceOf(n))
  }

  /** Reads a [[Row]] like [[scala.List.apply the list]] does.
    *
    * @param at the row
    * @return what is there
    */
  @throws(classOf[Exception])
  @inline final def read(at: Int)(implicit order: Order[T]): T = {
    source(at)
  }

  /** Is one expression long. */
  private[example] def arrow(a: Int): Int = a + 1

  /** Adds the rows of another list. */
  def ++(other: Rows[T]): Rows[T] = {
    this
  }

  /** Reads it as text. */
  override def toString: String = {
    "rows"
  }

  /** Has no body at all. */
  def shown: Unit

  /** Is a procedure of old. */
  def procedure() {
    count += 1
  }

  /** Keeps '''bold''' and ''italic'' and `code` of ^it^. */
  def marked(): Int = {
    1
  }
}

/** Makes them of nothing. */
object Rows {
  /** Makes one of nothing. */
  def apply(): Rows[Int] = {
    new Rows(0)
  }

  /** Calls itself at the end. */
  @tailrec
  def loop(n: Int): Int = {
    if (n == 0) 0 else loop(n - 1)
  }
}

/** What can be shown. */
trait Shown {
  /** Shows it without a body. */
  def show(): Unit

  /** Shows it by default. */
  def showTwice(): Unit = {
    show()
    show()
  }
}

/** A pair of numbers. */
case class Pair(a: Int, b: Int) {
  /**
   * Adds both of them.
   *
   * {{{
   * Pair(1, 2).sum
   * }}}
   */
  def sum: Int = {
    a + b
  }
}

object Functions {
  /** Runs a function in it. */
  def outer(): Int = {
    /** Does the local work. */
    def work(): Int = {
      1
    }
    work()
  }

  // Only a line comment here.
  def lineComment(): Int = {
    1
  }

  /* Has but one star. */
  def plainBlock(): Int = {
    1
  }

  /** Stands above another comment. */
  // a remark to the reader
  def remarked(): Int = {
    1
  }

  /** Stands above a blank line. */

  def spaced(): Int = {
    1
  }

  /** Overloaded for text. */
  def twice(a: String): String = {
    s"$a${a.length}"
  }

  /** Overloaded for numbers of it. */
  def twice(a: Int): Int = {
    2 * a
  }

  /** Takes it by name. */
  def timed[A](block: => A): A = {
    block
  }

  /**
   * @return only a tag
   */
  def onlyTag(): Int = {
    1
  }

  /** Is the test of it. */
  def testIt(): Int = {
    1
  }

  /** Has a quoted name of it. */
  def `quo ted`(): Int = {
    1
  }
}

class RowsSpec extends Spec {
  /** Helps the tests of it. */
  def helper(): Int = {
    1
  }
}
