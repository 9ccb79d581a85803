"""The pages for a browser; each module has its routes, its twins and its facts."""
