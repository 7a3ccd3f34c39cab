"""Contract tests: inherit the cases of a kind; pytest runs them on your own quantizer, method, step, solver."""
