"""Presentation: what the analysis found, as sentences, tables and figures in HTML, CSV, JSON and on a terminal."""
