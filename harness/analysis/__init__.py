"""Pure functions over records: statistics, arms, bottlenecks, claims, regression verdicts,
recommendations.
"""
