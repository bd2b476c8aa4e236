"""``.venv``, the studio's packages: what the launcher makes on the first run and looks after later.

Any Python 3 reads this folder, before there is a single package: the standard library only, and no syntax
that is younger than Python 3.6.
"""
