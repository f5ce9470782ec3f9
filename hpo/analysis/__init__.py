"""From the database to the honest comparison: results, statistics, figures, report.

Reads slots (the truth), never writes any.
"""
