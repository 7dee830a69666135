"""The stages: each reads tables, writes tables, and can be killed and run again. Built on Ray; see ``weaksam`` for the method."""
