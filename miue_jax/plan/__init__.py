"""The cost of a run, from compiled programs, before anything is spent."""
