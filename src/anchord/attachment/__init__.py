"""How a mobile node is noticed and identified."""
