"""Projects as files: out of a server, and into one."""
