"""How long a project's events are kept, and where: moving them to the archive, and removing
them for good."""
