"""`contex demo`: the whole story on real input, with every figure measured.

`command` is the entry, `story` its steps; `corpus` says what is published and who needs what, with
`stdlib` and `distributions` for the built-in documents; `expected` says which answers that a person
would expect were not delivered; `server` runs the real server, `journal`
and `listeners` note what happens, `verification` judges it, and `rendering` shows it.
"""
