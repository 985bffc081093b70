"""The figures, in one style."""
