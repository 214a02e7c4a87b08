"""What goes into a protocol object and what comes out of it, written down and fed in again."""
