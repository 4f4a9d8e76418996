"""Awkward Python as source, and the pairs that must come of it: (name, x, y, line)."""

from __future__ import annotations

BODY = "a = 1\n{i}b = 2\n{i}return a"

CASES: dict[str, tuple[str, list[tuple[str, str, str, int]]]] = {
    "plain": (
        '''
        def f(a):
            """Add one to it."""
            return a + 1
        ''',
        [("m.f", "Add one to it.", "def f(a):\n    return a + 1", 2)],
    ),
    "nested functions, each a candidate": (
        '''
        def outer():
            """The outer one."""
            def inner():
                """The inner one."""
                return 1
            return inner
        ''',
        [
            (
                "m.outer",
                "The outer one.",
                'def outer():\n    def inner():\n        """The inner one."""\n        return 1\n    return inner',
                2,
            ),
            ("m.outer.inner", "The inner one.", "def inner():\n    return 1", 4),
        ],
    ),
    "decorators are left out": (
        '''
        @app.route("/x")
        @cache(
            maxsize=3,
        )
        def f():
            """Has two decorators."""
            return 1
        ''',
        [("m.f", "Has two decorators.", "def f():\n    return 1", 6)],
    ),
    "async": (
        '''
        async def f():
            """Waits a bit."""
            await g()
        ''',
        [("m.f", "Waits a bit.", "async def f():\n    await g()", 2)],
    ),
    "methods, class methods and properties": (
        '''
        class A:
            class B:
                @classmethod
                def make(cls):
                    """Make a B."""
                    return cls()

            @property
            def size(self) -> int:
                """Its present size."""
                return self._size
        ''',
        [
            ("m.A.B.make", "Make a B.", "def make(cls):\n    return cls()", 5),
            ("m.A.size", "Its present size.", "def size(self) -> int:\n    return self._size", 10),
        ],
    ),
    "overloads give one pair, the one with a body": (
        '''
        @overload
        def f(a: int) -> int: ...
        @overload
        def f(a: str) -> str: ...
        def f(a):
            """Give it back."""
            return a
        ''',
        [("m.f", "Give it back.", "def f(a):\n    return a", 6)],
    ),
    "raw docstring keeps its backslashes": (
        '''
        def f():
            r"""Match \\d and \\n."""
            return 1
        ''',
        [("m.f", r"Match \d and \n.", "def f():\n    return 1", 2)],
    ),
    "escapes are decoded": (
        r"""
        def f():
            "Say \"hi\" \u00e9 \x41 \
            there."
            return 1
        """,
        [("m.f", 'Say "hi" é A there.', "def f():\n    return 1", 2)],
    ),
    "bytes, f-strings and calls are no docstrings": (
        '''
        def a():
            b"""Not a docstring."""
            return 1
        def b():
            f"""Not a {doc} string."""
            return 1
        def c():
            """Not a %s string.""" % doc
            return 1
        def d():
            """Not one""", """of two"""
            return 1
        ''',
        [],
    ),
    "concatenated and parenthesised strings": (
        """
        def f():
            "One half, " "other half."
            return 1
        def g():
            ("In paren"
             "theses it is.")
            return 1
        def h():
            "One half, " b"bytes"
            return 1
        """,
        [
            ("m.f", "One half, other half.", "def f():\n    return 1", 2),
            ("m.g", "In parentheses it is.", "def g():\n    return 1", 5),
        ],
    ),
    "a docstring on the line of def, with a semicolon": (
        '''
        def f(): """All on one line."""; return 1
        def g():
            """With a semicolon."""; x = 1
            return x
        ''',
        [
            ("m.f", "All on one line.", "def f(): return 1", 2),
            ("m.g", "With a semicolon.", "def g(): x = 1\n    return x", 3),
        ],
    ),
    "a comment between def and docstring stays, one behind the docstring goes": (
        '''
        def f():  # noqa
            # why it is so
            """Has comments around."""  # noqa: D400

            return 1
        ''',
        [("m.f", "Has comments around.", "def f():  # noqa\n    # why it is so\n    return 1", 2)],
    ),
    "names beyond ASCII": (
        '''
        def größe(wért):
            """Größe in Stück, naïvely."""
            return wért
        ''',
        [("m.größe", "Größe in Stück, naïvely.", "def größe(wért):\n    return wért", 2)],
    ),
    "quotes inside": (
        """
        def f():
            '''He said \"\"\"so\"\"\" and 'no'.'''
            return '''
        left alone'''
        """,
        [("m.f", 'He said """so""" and \'no\'.', "def f():\n    return '''\nleft alone'''", 2)],
    ),
    "first paragraph only, folded, without roles": (
        '''
        def f():
            """
            Compute the :class:`~a.B` of ``x``
            and   return it.

            More of it.
            """
            return 1
        def g(x):
            """Field lists end it.
            :param x: not this
            """
            return 1
        def h(x):
            """Sections end it.
            Args:
                x: not this
            """
            return 1
        def title(x):
            """Underlined title
            ----------------
            not this
            """
            return 1
        ''',
        [
            ("m.f", "Compute the a.B of x and return it.", "def f():\n    return 1", 2),
            ("m.g", "Field lists end it.", "def g(x):\n    return 1", 10),
            ("m.h", "Sections end it.", "def h(x):\n    return 1", 15),
            ("m.title", "Underlined title", "def title(x):\n    return 1", 21),
        ],
    ),
    "Python 2": (
        '''
        def f(a):
            """Print it twice."""
            print a
            exec "a = 1" in {}
            raise ValueError, "old"
        ''',
        [
            (
                "m.f",
                "Print it twice.",
                'def f(a):\n    print a\n    exec "a = 1" in {}\n    raise ValueError, "old"',
                2,
            )
        ],
    ),
    "an error in a body does not lose the function, nor its neighbours": (
        '''
        def before():
            """Before the error."""
            return 1

        def f():
            """Has an error inside."""
            x = = 3
            return 1

        def after():
            """After the error."""
            return 1
        ''',
        [
            ("m.before", "Before the error.", "def before():\n    return 1", 2),
            ("m.f", "Has an error inside.", "def f():\n    x = = 3\n    return 1", 6),
            ("m.after", "After the error.", "def after():\n    return 1", 11),
        ],
    ),
    "an error in a head: the body may be another function's": (
        '''
        def before():
            """Before the error."""
            return 1

        def broken(:
        x = = 3

        def f():
            """Swallowed by the error."""
            return 1
        ''',
        [("m.before", "Before the error.", "def before():\n    return 1", 2)],
    ),
    "inside if, try, with, match and loops": (
        '''
        if True:
            def a():
                """In an if."""
                return 1
        elif x:
            pass
        else:
            def b():
                """In an else."""
                return 1
        try:
            def c():
                """In a try."""
                return 1
        except* E:
            def d():
                """In an except."""
                return 1
        finally:
            def e():
                """In a finally."""
                return 1
        match x:
            case 1:
                def g():
                    """In a case."""
                    return 1
        while 1:
            for i in x:
                with y:
                    def h():
                        """In a with."""
                        return 1
        ''',
        [
            ("m.a", "In an if.", "def a():\n    return 1", 3),
            ("m.b", "In an else.", "def b():\n    return 1", 9),
            ("m.c", "In a try.", "def c():\n    return 1", 13),
            ("m.d", "In an except.", "def d():\n    return 1", 17),
            ("m.e", "In a finally.", "def e():\n    return 1", 21),
            ("m.g", "In a case.", "def g():\n    return 1", 26),
            ("m.h", "In a with.", "def h():\n    return 1", 32),
        ],
    ),
    "lambdas are no functions": ("f = lambda x: x  # no docstring can be\n", []),
    "type parameters and defaults over lines": (
        '''
        def f[T](
            a: T = (1,
                    2),
        ) -> T:
            """Give it back."""
            return a
        ''',
        [("m.f", "Give it back.", "def f[T](\n    a: T = (1,\n            2),\n) -> T:\n    return a", 2)],
    ),
    "empty": ("", []),
    "only a comment": ("# nothing here", []),
    "a docstring is all there is": (
        '''
        def f():
            """Nothing but this."""
        ''',
        [],
    ),
}
