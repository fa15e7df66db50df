"""Tasks, shared calls and worker processes; nothing here knows about registries."""
