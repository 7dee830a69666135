"""What every stage needs: its definition, Ray, interrupts, progress, status."""
