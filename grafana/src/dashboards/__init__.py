"""One dashboard a file: ``build()`` gives it. A new file is a new dashboard."""
