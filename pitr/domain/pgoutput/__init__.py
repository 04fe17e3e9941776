"""PostgreSQL's ``pgoutput`` protocol, version 1: from messages to changes.

Source: PostgreSQL documentation, "Logical Replication Message Formats" and "Logical Streaming
Replication Protocol". Values arrive as the text that the type's output function writes, under the
settings of ``SESSION``.
"""
