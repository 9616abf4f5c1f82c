"""What may be flashed into a moving vehicle, and what brings the reference map back."""
