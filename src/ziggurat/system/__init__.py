"""What the program asks of the operating system, in one place each."""
