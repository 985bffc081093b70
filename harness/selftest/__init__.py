"""Known falsehoods that the harness must detect, and the fixture that plants them."""
