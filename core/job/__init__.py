"""The job: its file with line numbers, its flags, its schema, and the options that it gives to plugins."""
