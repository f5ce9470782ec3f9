"""Numbers about studies: statistics, comparisons, what tuning did, dependence; no sentences and no pictures."""
