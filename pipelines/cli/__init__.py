"""The command ``weaksam``."""
