"""Contract tests: inherit the cases of a kind, and pytest runs them on your own quantizer, method or solver."""
