//! The HTTP/2 limits that both ends of a link agree on.

/// Concurrent streams that we allow on one connection, and use of one before we open another.
pub(crate) const MAX_STREAMS: u32 = 256;
/// Bytes in flight per stream: enough for a gigabit at 8 ms.
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes in flight per connection.
pub(crate) const CONNECTION_WINDOW: u32 = 4 << 20;
/// All headers of a message together, in bytes; HTTP/1.1 has the same limit.
pub(crate) const MAX_HEADER_LIST: u32 = 64 << 10;
