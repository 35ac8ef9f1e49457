"""What a run costs and how fast it is: counted from compiled programs, timed, planned."""
