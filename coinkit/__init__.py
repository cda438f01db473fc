"""What the scripts share: the grading scale, photos, metrics and the way commands end."""
