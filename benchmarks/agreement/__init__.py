"""Our extraction beside each language's own tools."""
