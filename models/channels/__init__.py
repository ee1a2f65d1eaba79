"""Channel mixers: maps of each position by itself."""
