"""Pipeline parallelism: consecutive parts of any network on different workers. Knows of no particular model."""
