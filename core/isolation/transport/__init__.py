"""The transport between the sides of the sandbox: messages, and memory that both map."""
