"""The private application: what the machines and people ask."""
