"""The verbs: what pitr does, over the ports of the domain."""
