"""How payloads of each format become words and passages."""
