"""What starts from a finished run: its network, loaded and put to use."""
