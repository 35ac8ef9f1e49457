"""Settings: every option of the program beside its check, and the errors a user reads."""
