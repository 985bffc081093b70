"""What README and docs take from the code and the reference runs: blocks between two comments,
filled by `nox -s docs` and checked by `nox -s lint`.
"""
