"""The relative score, which decides where texts have not been encoded anew (ADR 8).

A passage's share against its rivals is part of it, so that data that are alike suppress each
other. Projects of earlier versions are decided by it until `match.reembedding` has moved them to
the absolute score. Nothing here is developed further.
"""
