"""From fields and a budget to a result: measure options, allocate, code, resume."""
