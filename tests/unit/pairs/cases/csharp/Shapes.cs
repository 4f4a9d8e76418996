// A licence that nobody reads.
using System;

namespace Shapes.Inner;

/// <summary>
/// A list of rows.
/// </summary>
[Serializable]
public partial class Rows<T> : Base, IRows where T : new()
{
    /// <summary>Makes an empty list.</summary>
    public Rows()
    {
        Clear();
    }

    /// <summary>Frees all of it again.</summary>
    ~Rows()
    {
        Clear();
    }

    /// <summary>
    /// Reads one row, see <see cref="T:System.Collections.Generic.List`1"/> and <paramref name="at"/>.
    /// </summary>
    /// <param name="at">the row</param>
    /// <returns>what is there</returns>
    [Obsolete("use another one")]
    public async Task<T> Read(int at)
    {
        int Local(int b)
        {
            return b;
        }
        return await Get(Local(at));
    }

    /** <summary>Has a block of it.</summary> */
    public int Block(int a)
    {
        return a;
    }

    /// Says it without any element.
    public int Plain(int a)
    {
        return a;
    }

    /// <summary>Is one expression long.</summary>
    public int Arrow(int a) => a + 1;

    /// <summary>How many there are.</summary>
    public int Count
    {
        get { return count; }
        set { count = value; }
    }

    /// <summary>Is kept by the compiler.</summary>
    public int Auto
    {
        get;
        set;
    }

    /// <summary>Adds two lists of them.</summary>
    public static Rows<T> operator +(Rows<T> a, Rows<T> b)
    {
        return a;
    }

    /// <summary>Turns it into a number.</summary>
    public static implicit operator int(Rows<T> a)
    {
        return a.Count;
    }

    /// <summary>Gives a row by its number.</summary>
    public T this[int at]
    {
        get { return Get(at); }
    }

    /// <summary>Implements an interface of it.</summary>
    void IRows.Clear()
    {
        count = 0;
    }

    /// <summary>Overloaded for numbers.</summary>
    public void Add(int a)
    {
        count += a;
    }

    /// <summary>Overloaded for <c>string</c> and <see langword="null"/> alike.</summary>
    public void Add(string a)
    {
        count++;
    }

    /// <inheritdoc/>
    public void Inherited()
    {
        count++;
    }

    /// <summary>Runs a local function in it.</summary>
    public int WithLocal()
    {
        // helps
        /// <summary>Does the local work.</summary>
        static int Work<U>(U a) where U : class
        {
            return 1;
        }
        return Work("");
    }

#if DEBUG
    /// <summary>Prints what is in it.</summary>
    public void Dump()
    {
        Console.WriteLine(count);
    }
#else
    /// <summary>Prints nothing at all.</summary>
    public void Dump()
    {
        count++;
    }
#endif

    /// <summary>Stands above a pragma.</summary>
#pragma warning disable CS0618
    public void Warned()
    {
        count++;
    }

    // Only a line comment here.
    public void LineComment()
    {
        count++;
    }

    /* Has but one star. */
    public void PlainBlock()
    {
        count++;
    }

    /// <summary>Reads it as text.</summary>
    public override string ToString()
    {
        return "rows";
    }

    /// <summary>Is checked by a test.</summary>
    [Fact]
    public void Checks()
    {
        count++;
    }

    /// <summary>Has no body at all.</summary>
    public abstract void Abstract();

    /// <summary>
    /// Says one thing.
    /// <para>And another one.</para>
    /// <code>
    /// Rows.Two();
    /// </code>
    /// </summary>
    /// <remarks>More of it.</remarks>
    public void Paragraphs()
    {
        count++;
    }
}

/// <summary>A pair of numbers.</summary>
public record Pair(int A, int B)
{
    /// <summary>Adds both of them.</summary>
    public int Sum()
    {
        return A + B;
    }
}

/// <summary>What can be shown.</summary>
interface IShown
{
    /// <summary>Shows it without a body.</summary>
    void Show();

    /// <summary>Shows it by default.</summary>
    void ShowTwice()
    {
        Show();
        Show();
    }
}
