"""The stages: each reads tables, writes tables, and can be killed and run again. Built on Ray."""
