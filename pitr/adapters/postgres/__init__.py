"""PostgreSQL as a source: its replication stream."""
