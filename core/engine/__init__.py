"""The training loop and what it is made of; imports the hooks and nothing else of ringfence."""
