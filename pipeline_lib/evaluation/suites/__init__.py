"""Public evaluation suites: each reads the layout of its official download and gives figures with a value for every query."""
