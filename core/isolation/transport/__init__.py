"""How the two sides of the sandbox talk: messages, and memory that both map."""
