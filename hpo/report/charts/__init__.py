"""The report's figures: each takes its data, ready, and gives a plotly figure or an image."""
