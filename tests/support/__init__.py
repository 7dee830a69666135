"""What several test files use: drawn runs, small SAMs, tolerances, a storage server."""
