"""Build the model of a job: a builtin one, or what a function of the user's returns."""
