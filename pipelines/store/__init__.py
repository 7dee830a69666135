"""What lies in a run's folder: tables, instances, locks, proofs."""
