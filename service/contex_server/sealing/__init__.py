"""Payloads that name a subject, encrypted at rest: with the subject's key goes the payload."""
