"""What pages are made of: sections, their templates, charts, pictures."""
