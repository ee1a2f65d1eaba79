"""Token mixers: each file says how the parts of an engine are made and how its output is gated."""
