"""Real brokers that speak Kafka's protocol, and tests on them."""
