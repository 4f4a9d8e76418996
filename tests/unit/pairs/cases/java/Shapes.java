/* A licence that nobody reads. */
package org.example;

import java.util.*;

/**
 * Shapes that documented methods come in.
 */
public class Shapes<T extends Comparable<T>> {
    /** How many there are. */
    private int count = 0;

    /** Makes an empty one. */
    public Shapes() {
        this.count = 0;
    }

    /**
     * Returns the larger of two values.
     *
     * <p>Ties go to the first.
     *
     * @param a one value
     * @param b another value
     * @return the larger one
     */
    public static <U extends Comparable<U>> U larger(U a, U b) {
        return a.compareTo(b) >= 0 ? a : b;
    }

    /** Overloaded for integers. */
    int twice(int n) {
        return n * 2;
    }

    /** Overloaded for {@code String} and {@link java.util.List#size() lists} alike. */
    String twice(String s) {
        return s + s;
    }

    /** Has annotations below it. */
    @Override
    @SuppressWarnings({"unchecked", "rawtypes"})
    public final int annotated(@Nullable Object o) throws Exception, Error {
        return o.hashCode();
    }

    @Deprecated
    /** Dangles below an annotation. */
    int dangling() {
        return 1;
    }

    /** Stands above another comment. */
    // a remark to the reader
    int remarked() {
        return 1;
    }

    /** Stands above a blank line. */

    int spaced() {
        return 1;
    }

    // Only a line comment here.
    int lineComment() {
        return 1;
    }

    /* Has but one star. */
    int plainBlock() {
        return 1;
    }

    /**/
    int emptyComment() {
        return 1;
    }

    /** Describes the field alone. */
    int field; int afterField() { return field; }

    /** Sorts by an anonymous class. */
    void sort(List<T> list) {
        list.sort(new Comparator<T>() {
            /** Compares the wrong way round. */
            @Override public int compare(T a, T b) {
                return b.compareTo(a);
            }
        });
    }

    /** Runs a local class. */
    void local() {
        class Worker {
            /** Does the local work. */
            void work() {
                count++;
            }
        }
        new Worker().work();
    }

    /** Returns {@inheritDoc} nothing new. */
    @Override
    public String toString() {
        return "shapes";
    }

    /** Copies with &lt;T&gt; kept, in <em>one</em> pass<br>over all. */
    synchronized void copy(T[] from) {
        for (T t : from) { add(t); }
    }

    /** A nested interface. */
    interface Visitor {
        /** Visits without a body. */
        void visit(Shapes<?> s);

        /** Visits twice by default. */
        default void visitTwice(Shapes<?> s) {
            visit(s);
            visit(s);
        }
    }

    /** A nested enum. */
    enum Kind {
        ROUND {
            /** Overrides in a constant. */
            int corners() { return 0; }
        };

        /** Counts the corners of it. */
        int corners() {
            return 4;
        }
    }

    /** A pair of numbers. */
    record Pair(int a, int b) {
        /** Checks both of them. */
        Pair {
            if (a > b) throw new IllegalArgumentException();
        }

        /** Adds both of them. */
        int sum() {
            return a + b;
        }
    }

	/** Indented by tabs. */
	int tabbed(int x) {
		if (x > 0) {
			return 1;
		}
		return 0;
	}

    /** Zählt die Stücke. */
    int stückZahl() {
        return count;
    }

    /**
     * @return only a tag
     */
    int onlyTag() {
        return 1;
    }

    /** A test of it. */
    void testIt() {
        assert true;
    }
}
