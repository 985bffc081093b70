"""A run from its lock to its last line: options, plan, resources, and the engine."""
