"""Read the data of a job: the set that ships with ringfence, files, or a function of the user's."""
