package org.example

/** Lives at the top. */
def top(a: Int): Int =
  val b = a
  b + 1

/** The colours of it. */
enum Color:
  case Red, Green

  /** Mixes it with another. */
  def mix(other: Color): Color =
    val both = other
    both

/** Orders them by number. */
given Ordering[Color] with
  /** Compares by its number. */
  def compare(a: Color, b: Color): Int =
    val c = a.ordinal
    c - b.ordinal

extension (s: String)
  /** Shouts it out loud. */
  def shout: String =
    val t = s.toUpperCase
    t + "!"

/** Runs without any braces. */
class Indented:
  /** Counts what is there. */
  def count(xs: List[Int]): Int =
    xs match
      case Nil => 0
      case _ :: rest => 1 + count(rest)

  /** Ends with a mark. */
  def marked(): Int =
    1
  end marked
end Indented
