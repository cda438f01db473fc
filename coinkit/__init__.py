"""What the scripts share; each module says at its top what it is for."""
