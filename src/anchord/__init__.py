"""Distributed mobility anchoring (RFC 8885) on Linux routers."""
