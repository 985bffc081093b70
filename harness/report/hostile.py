"""tmp"""


def meetings_lines(m, x):
    return []
