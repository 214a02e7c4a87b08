"""Where nodes keep what must survive a crash: small JSON values in named tables."""
