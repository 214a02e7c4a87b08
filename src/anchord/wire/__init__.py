"""Bytes and values: every format that anchord puts on a wire or into a file, and nothing else.

No I/O, no clock, no state. The layer is total: any bytes give a value or one :class:`~anchord.wire.errors.WireError`.

=================  =====================================================================================
header             the Mobility Header as a whole: ``decode``, ``encode``, ``checksum`` (RFC 6275 section 6.1)
messages           Binding Update, Acknowledgement, Error (RFC 6275, RFC 5213, RFC 8885), Heartbeat (RFC 5847),
                   Binding Revocation (RFC 5846), Update Notification (RFC 7077)
options            mobility options, driven by one table (RFC 6275 6.2, RFC 5213 8, RFC 8885 4, RFC 5847, RFC 4283)
neighbor           ICMPv6 Neighbor Discovery messages (RFC 4861, RFC 4191); gathers the two modules below
neighbor_options   Neighbor Discovery options (RFC 4861 4.6, RFC 4191 2.3, RFC 8106 5)
frames             Ethernet frames around them, and the 802.2 XID "Layer 2 Update" frame
integers           unsigned integers in network order
pcap               capture files with nanosecond times
carrier            finding an option in a message by its class
checksum           the Internet checksum over an IPv6 pseudo-header (RFC 8200 section 8.1)
=================  =====================================================================================
"""
