"""What the commands do, as functions: complete a config, check it, start the workers."""
