"""Database, migrations and blobs: the only package that knows where things are kept."""
