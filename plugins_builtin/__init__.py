"""The builtin plugins; each imports only the public API of ringfence, as a stranger's would."""
