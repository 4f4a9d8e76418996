"""What only a GPU can show, in parts of a few minutes, each with its own file of results."""
