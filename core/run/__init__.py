"""From a job to a finished run: the only room that knows both the engine and the sandbox."""
