"""What DMO is compared with."""
