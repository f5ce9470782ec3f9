"""The report's figures: each takes finished data and returns a plotly figure or images."""
