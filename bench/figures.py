"""Figures from samples, by round, with their spread."""

import statistics


def by_round(samples, measure, who, figure, case=None):
    """{round: figure}; `case` None matches any case."""
    return {s["round"]: s[figure] for s in samples
            if s["measure"] == measure and s["who"] == who and case in (None, s["case"]) and figure in s}


def combine(function, *figures):
    """Applies `function` to figures of the same round, because a disturbance affects all figures of a round alike."""
    rounds = set.intersection(*(set(figure) for figure in figures))
    return {round: function(*(figure[round] for figure in figures)) for round in rounds}


def ratio(these, those):
    return combine(lambda a, b: a / b, these, those)


def median(figures):
    return statistics.median(figures.values())


def number(value):
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def spread(figures):
    """median (minimum–maximum)"""
    if not figures:
        return "–"
    middle, least, most = (number(f) for f in (median(figures), min(figures.values()), max(figures.values())))
    return middle if least == most else f"{middle} ({least}–{most})"
