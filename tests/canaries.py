"""A word that stands for what must not be in a log: tests put it into payloads and keys."""

CANARY = "canary-5e1f09b7-in-the-mine"
